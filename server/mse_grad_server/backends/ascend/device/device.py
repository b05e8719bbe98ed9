"""The resources of one open device: context, streams, slots and executors. Only the device thread uses them."""

from __future__ import annotations

from dataclasses import dataclass

from mse_grad_server.backends.ascend.acl.error_codes import AclError
from mse_grad_server.backends.ascend.acl.operator import OpApi
from mse_grad_server.backends.ascend.acl.runtime import Acl, DataType
from mse_grad_server.backends.ascend.device.blocks import Layout
from mse_grad_server.backends.ascend.device.executors import ExecutorCache
from mse_grad_server.backends.ascend.device.slots import Slot

__all__ = ["Device", "DeviceOptions", "Streams"]

_TIMING_MS = 1000


@dataclass(frozen=True)
class DeviceOptions:
    """The device to use, and how much of it.

    Attributes:
        number: Number of the device among those that the process may use.
        slots: Blocks in flight at a time. At least 3: copy-in, kernel and copy-out of three blocks overlap.
        block_bytes: Largest operand of a block; at least 8 KiB.
        most_kinds: Number of kinds of launch whose executors are kept.
        timing_every: One block in this many is timed in each stage, which takes three more events; 0 for none.
    """

    number: int = 0
    slots: int = 6
    block_bytes: int = 2 * 2**20
    most_kinds: int = 256
    timing_every: int = 16


@dataclass(frozen=True)
class Streams:
    """The three streams that a block goes through; a small block stays in one of them."""

    copy_in: int
    compute: int
    copy_out: int

    def of_slot(self, number: int) -> int:
        """Returns the stream for the small blocks of a slot, so that those of three slots overlap."""
        return (self.copy_in, self.compute, self.copy_out)[number % 3]


class Device:
    """One device, which can be opened again after it was closed. ACL must be initialised.

    Args:
        acl: The libraries of the runtime.
        opapi: The operator.
        options: The device to use, and how much of it.

    Attributes:
        options: The options.
        streams: The streams; set while open.
        slots: The slots; set while open.
        keeps_time: Whether the runtime measures the time between events.
        subnormal_dtypes: Data types in which the device computed subnormal numbers as the formula does, so that an
            element may be compared although it is one. A chip may also flush them to zero.
    """

    streams: Streams
    slots: list[Slot]
    keeps_time: bool

    def __init__(self, acl: Acl, opapi: OpApi, options: DeviceOptions) -> None:
        self.options = options
        self.subnormal_dtypes: frozenset[DataType] = frozenset()
        self._acl = acl
        self._opapi = opapi
        self._executors: ExecutorCache | None = None
        self._is_set = False
        # Calls that release the resources, in the order of their creation; those of streams are separate.
        self._undo: list[tuple[str, int]] = []
        self._undo_streams: list[tuple[str, int]] = []
        self._cannot_stop = False

    def open(self) -> None:
        """Creates all resources. If a call fails, it releases them again and raises AclError.

        It calls aclrtSetDevice once only: the runtime counts the calls, and one aclrtResetDevice undoes one of them.
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
            self.keeps_time = bool(self.options.timing_every) and self._measures()
        except BaseException:
            self.close()
            raise

    @property
    def executors(self) -> ExecutorCache:
        """The executors; only while open."""
        assert self._executors is not None
        return self._executors

    @property
    def pinned_bytes(self) -> int:
        """Pinned memory that the device holds; only while open."""
        return sum(slot.size_bytes for slot in self.slots)

    @property
    def memory_bytes(self) -> int:
        """Device memory that is held, workspaces included; only while open."""
        return self.pinned_bytes + self.executors.workspace_bytes

    def close(self) -> list[AclError]:
        """Destroys everything in reverse order and returns the errors; a failed call is not repeated.

        A stream that cannot be destroyed may run on: then memory and executors stay until `reset`. No thread may touch
        the memory of a slot after this call.
        """
        if self._cannot_stop:
            return []
        errors = self._destroy(self._undo_streams)
        if errors:
            self._cannot_stop = True
            return errors
        return self._clear_executors() + self._destroy(self._undo)

    def reset(self) -> None:
        """Resets the closed device, which also frees what `close` left; raises AclError."""
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
        # By force: it does not wait for the tasks in the stream, which may never end.
        self._undo_streams.append(("aclrtDestroyStreamForce", stream))
        # Otherwise the tasks behind a failed one would run on stale data.
        self._acl.stop_on_failure(stream)
        return stream

    def _make_slot(self, number: int) -> Slot:
        size_bytes = Layout.slot_bytes(self.options.block_bytes)
        host = self._acl.malloc_host(size_bytes)
        self._undo.append(("aclrtFreeHost", host))
        device = self._acl.malloc(size_bytes)
        self._undo.append(("aclrtFree", device))
        return Slot(number, size_bytes, host, device, *(self._make_event() for _ in range(6)))

    def _measures(self) -> bool:
        begin, end, stream = self.slots[0].copy_in_begins, self.slots[0].copied_in, self.streams.copy_in
        # A clock that cannot be read must not stop the start: a device that has failed fails its self-check as well.
        try:
            self._acl.record(begin, stream)
            self._acl.record(end, stream)
            self._acl.synchronise(stream, _TIMING_MS)
        except AclError:
            return False
        return self._acl.elapsed_s(begin, end) is not None

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
