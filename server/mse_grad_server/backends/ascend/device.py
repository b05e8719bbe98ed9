"""What is held of one device: context, streams, slots, executors. Used by the device thread alone."""

from __future__ import annotations

from dataclasses import dataclass

from mse_grad_server.backends.ascend.acl import Acl
from mse_grad_server.backends.ascend.blocks import Layout
from mse_grad_server.backends.ascend.executors import ExecutorCache
from mse_grad_server.backends.ascend.faults import AclError
from mse_grad_server.backends.ascend.opapi import OpApi
from mse_grad_server.backends.ascend.slots import Slot

__all__ = ["Device", "DeviceOptions", "Streams"]

_TIMING_MS = 1000


@dataclass(frozen=True)
class DeviceOptions:
    """How much of a device is used.

    Attributes:
        number: Which device of those that the process may use.
        slots: Blocks under way at a time; at least 3, for copy-in, kernel and copy-out of three blocks overlap.
        block_bytes: Largest operand of a block; at least 8 KiB.
        most_kinds: Kinds of launch whose executors are kept.
        timing: Whether events tell the time that a block takes in each stage; three more are recorded for it then.
    """

    number: int = 0
    slots: int = 6
    block_bytes: int = 2 * 2**20
    most_kinds: int = 256
    timing: bool = True


@dataclass(frozen=True)
class Streams:
    """The three streams that a block goes through."""

    copy_in: int
    compute: int
    copy_out: int


class Device:
    """Opened, closed and opened again in a process that has initialised ACL.

    Attributes:
        streams: The streams; while it is open.
        slots: The slots; while it is open.
        keeps_time: Whether events tell the time between them.
    """

    streams: Streams
    slots: list[Slot]
    keeps_time: bool

    def __init__(self, acl: Acl, opapi: OpApi, options: DeviceOptions) -> None:
        self.options = options
        self._acl = acl
        self._opapi = opapi
        self._executors: ExecutorCache | None = None
        self._is_set = False
        # What there is to undo on the device, in the order in which it was done; streams apart.
        self._undo: list[tuple[str, int]] = []
        self._undo_streams: list[tuple[str, int]] = []
        self._cannot_stop = False

    def open(self) -> None:
        """Makes everything; raises AclError where it cannot, and then has made nothing.

        aclrtSetDevice counts, and one aclrtResetDevice undoes one of it: so it is called once only.
        """
        acl = self._acl
        if not self._is_set:
            acl.call("aclrtSetDevice", self.options.number)
            self._is_set = True
        try:
            self._undo.append(("aclrtDestroyContext", acl.create_context(self.options.number)))
            self.slots = [self._make_slot(number) for number in range(self.options.slots)]
            self._executors = ExecutorCache(
                acl,
                self._opapi,
                memories=[slot.device for slot in self.slots],
                most_kinds=self.options.most_kinds,
            )
            self.streams = Streams(self._make_stream(), self._make_stream(), self._make_stream())
            self.keeps_time = self.options.timing and self._measures()
        except BaseException:
            self.close()
            raise

    @property
    def executors(self) -> ExecutorCache:
        """The executors; while it is open."""
        assert self._executors is not None
        return self._executors

    @property
    def pinned_bytes(self) -> int:
        """Pinned memory that it holds; while it is open."""
        return sum(slot.size_bytes for slot in self.slots)

    @property
    def memory_bytes(self) -> int:
        """Memory of the device that it holds; while it is open."""
        return self.pinned_bytes + self.executors.workspace_bytes

    def close(self) -> list[AclError]:
        """Destroys everything, the last made first, and returns what went wrong on the way; what failed is forgotten.

        Where a stream cannot be destroyed, it may run on: then its memory and executors stay until the reset. No thread
        may touch the memory of a slot any more.
        """
        if self._cannot_stop:
            return []
        errors = self._destroy(self._undo_streams)
        if errors:
            self._cannot_stop = True
            return errors
        return self._clear_executors() + self._destroy(self._undo)

    def reset(self) -> None:
        """Gives the closed device back to the driver, which takes what is left of it; raises AclError."""
        if not self._is_set:
            return
        self._is_set = False
        self._acl.call("aclrtResetDevice", self.options.number)
        self._cannot_stop = False
        self._undo.clear()
        errors = self._clear_executors(workspaces_are_gone=True)
        if errors:
            raise errors[0]

    def _make_stream(self) -> int:
        stream = self._acl.create_stream()
        # By force: it does not wait for what is in the stream, which may never end.
        self._undo_streams.append(("aclrtDestroyStreamForce", stream))
        # Without it what was queued behind a failed task would run, on stale data.
        self._acl.stop_on_failure(stream)
        return stream

    def _make_slot(self, number: int) -> Slot:
        size_bytes = Layout.room_bytes(self.options.block_bytes)
        host = self._acl.malloc_host(size_bytes)
        self._undo.append(("aclrtFreeHost", host))
        device = self._acl.malloc(size_bytes)
        self._undo.append(("aclrtFree", device))
        return Slot(number, size_bytes, host, device, *(self._make_event() for _ in range(6)))

    def _measures(self) -> bool:
        begin, end, stream = self.slots[0].copy_in_begins, self.slots[0].copied_in, self.streams.copy_in
        # A device that has failed fails its self-check too; figures alone are no reason to do without it.
        try:
            self._acl.record(begin, stream)
            self._acl.record(end, stream)
            self._acl.synchronise(stream, _TIMING_MS)
            self._acl.elapsed_s(begin, end)
        except AclError:
            return False
        return True

    def _make_event(self) -> int:
        event = self._acl.create_event()
        self._undo.append(("aclrtDestroyEvent", event))
        return event

    def _clear_executors(self, *, workspaces_are_gone: bool = False) -> list[AclError]:
        executors, self._executors = self._executors, None
        return [] if executors is None else executors.clear(workspaces_are_gone=workspaces_are_gone)

    def _destroy(self, handles: list[tuple[str, int]]) -> list[AclError]:
        errors = []
        while handles:
            try:
                self._acl.call(*handles.pop())
            except AclError as error:
                errors.append(error)
        return errors
