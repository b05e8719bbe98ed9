"""Blocks in flight: copy-in, kernel and copy-out on three streams, joined by events. Used by the device thread alone.

copy_in   in 1 | in 2 | in 3  | ...
compute          y 1  | y 2   | y 3  | ...
copy_out                out 1 | out 2 | out 3
"""

from __future__ import annotations

from collections import deque
from contextlib import suppress

from mse_grad_server.backends.ascend.acl import Acl, CopyKind
from mse_grad_server.backends.ascend.blocks import LaunchKey
from mse_grad_server.backends.ascend.device import Device
from mse_grad_server.backends.ascend.faults import AclError
from mse_grad_server.backends.ascend.jobs import Job, Stages
from mse_grad_server.backends.ascend.slots import Slot

__all__ = ["Pipeline"]

# The shortest time that the call waits; a stream that failed answers at once.
_LOOK_MS = 1
_REST_MS = 100


class Pipeline:
    """The jobs that were queued on an open device and have not been taken off, oldest first."""

    def __init__(self, acl: Acl, device: Device) -> None:
        self._acl = acl
        self._device = device
        self._queued: deque[Job] = deque()

    def __len__(self) -> int:
        return len(self._queued)

    @property
    def is_full(self) -> bool:
        """Whether every slot is under way, so that no further job can come before one ends."""
        return len(self._queued) == len(self._device.slots)

    def queue(self, job: Job) -> bool:
        """Queues a job behind those that are queued, and returns whether its kind had to be planned; does not wait.

        Raises:
            PlanError: Its kind could not be planned; nothing was queued.
            AclError: A part of it may be queued; the job was not taken.
        """
        acl, slot, layout, streams = self._acl, job.slot, job.layout, self._device.streams
        executors = self._device.executors
        was_planned = executors.prepare(job.key, queued=self._kinds)
        keeps_time = self._device.keeps_time
        if keeps_time:
            acl.record(slot.copy_in_begins, streams.copy_in)
        acl.copy_async(slot.device, slot.host, layout.in_bytes, CopyKind.HOST_TO_DEVICE, streams.copy_in)
        acl.record(slot.copied_in, streams.copy_in)
        acl.make_wait(streams.compute, slot.copied_in)
        if keeps_time:
            acl.record(slot.kernel_begins, streams.compute)
        executors.launch(job.key, slot.number, streams.compute)
        acl.record(slot.computed, streams.compute)
        acl.make_wait(streams.copy_out, slot.computed)
        if keeps_time:
            acl.record(slot.copy_out_begins, streams.copy_out)
        acl.copy_async(
            slot.host + layout.y,
            slot.device + layout.y,
            layout.operand_bytes,
            CopyKind.DEVICE_TO_HOST,
            streams.copy_out,
        )
        acl.record(slot.copied_out, streams.copy_out)
        self._queued.append(job)
        return was_planned

    def take_computed(self) -> Job | None:
        """Takes off the oldest job where it is through, without waiting; raises AclError, and then takes none."""
        if not self._queued or not self._acl.has_happened(self._queued[0].slot.copied_out):
            return None
        self._queued[0].stages = self._stages(self._queued[0].slot)
        return self._queued.popleft()

    def wait_for_oldest(self, timeout_ms: int) -> bool:
        """Waits until the oldest job is through; returns whether it is. Raises AclError."""
        return self._acl.wait_for(self._queued[0].slot.copied_out, timeout_ms)

    def look_for_faults(self) -> None:
        """Raises AclError where a stream has failed: an event behind the failure never happens, and says nothing.

        Source: Event::Synchronize of the runtime, which looks at the state of the device every 5 s only.
        """
        for stream in self._streams:
            self._acl.is_empty(stream, _LOOK_MS)

    def drain(self, timeout_ms: int) -> list[Job]:
        """Waits until the streams are empty and takes off every job, all of them through; raises AclError."""
        for stream in self._streams:
            self._acl.synchronise(stream, timeout_ms)
        return self.take_all()

    def come_to_rest(self) -> None:
        """Gives what runs a moment to end, before its memory goes; a stream that failed or hangs is left to itself."""
        for stream in self._streams:
            with suppress(AclError):
                self._acl.is_empty(stream, _REST_MS)

    def take_all(self) -> list[Job]:
        """Takes off every job."""
        jobs = list(self._queued)
        self._queued.clear()
        return jobs

    def give_memory_back(self) -> None:
        """Destroys the executors that are not queued, which may hold workspaces; raises AclError."""
        self._device.executors.evict_idle(queued=self._kinds)

    def _stages(self, slot: Slot) -> Stages | None:
        if not self._device.keeps_time:
            return None
        elapsed_s = self._acl.elapsed_s
        return Stages(
            elapsed_s(slot.copy_in_begins, slot.copied_in),
            elapsed_s(slot.kernel_begins, slot.computed),
            elapsed_s(slot.copy_out_begins, slot.copied_out),
        )

    def _kinds(self) -> set[LaunchKey]:
        return {job.key for job in self._queued}

    @property
    def _streams(self) -> tuple[int, int, int]:
        streams = self._device.streams
        return streams.copy_in, streams.compute, streams.copy_out
