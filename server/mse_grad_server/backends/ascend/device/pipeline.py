"""Pipeline of the blocks in flight: copy-in, kernel and copy-out on three streams, ordered by events.

copy_in   in 1 | in 2 | in 3  | ...
compute          y 1  | y 2   | y 3  | ...
copy_out                out 1 | out 2 | out 3

The stages of a small block take less time than the events between them, so all of them run in one of these streams.
Only the device thread uses the pipeline.
"""

from __future__ import annotations

from collections import deque
from contextlib import suppress

from mse_grad_server.backends.ascend.acl.error_codes import AclError
from mse_grad_server.backends.ascend.acl.runtime import Acl, CopyKind
from mse_grad_server.backends.ascend.device.blocks import LaunchKey
from mse_grad_server.backends.ascend.device.device import Device
from mse_grad_server.backends.ascend.device.jobs import Job, Stages

__all__ = ["Pipeline"]

# The shortest time-out of the call, which returns at once for a failed stream.
_FAULT_CHECK_MS = 1
_REST_MS = 100
# In one block in this many, elements in the middle are compared with the formula too: a core may have computed nothing.
_SUSPECT_EVERY = 16
# Distance of these elements from those of the last such block; a prime, so that they reach every part of a block.
_SAMPLE_STEP = 7919


class Pipeline:
    """The jobs that are queued on an open device, oldest first.

    Args:
        acl: The libraries of the runtime.
        device: The device, which must be open while jobs are queued.
    """

    def __init__(self, acl: Acl, device: Device) -> None:
        self._acl = acl
        self._device = device
        self._queued: deque[Job] = deque()
        self._checked = 0  # jobs whose gradient was checked
        self._started = 0  # jobs that `queue` began to queue

    def __len__(self) -> int:
        return len(self._queued)

    @property
    def is_full(self) -> bool:
        """Whether every slot is in flight, so that no further job can arrive before one ends."""
        return len(self._queued) == len(self._device.slots)

    def queue(self, job: Job) -> bool:
        """Queues a job behind the others and returns whether its kind had to be planned; does not wait.

        Raises:
            PlanError: Its kind could not be planned; nothing was queued.
            AclError: A call failed. Some of its tasks may be in the streams; the pipeline does not hold the job.
        """
        was_planned = self._device.executors.prepare(job.key, queued=self._kinds)
        every = self._device.options.timing_every
        job.is_sampled = not every or self._started % every == 0
        self._started += 1
        keeps_time = job.is_sampled and self._device.keeps_time
        if job.layout.is_small:
            self._queue_in_one_stream(job, keeps_time=keeps_time)
        else:
            self._queue_in_three_streams(job, keeps_time=keeps_time)
        self._queued.append(job)
        job.is_launched = True
        return was_planned

    def pop_computed(self) -> Job | None:
        """Removes and returns the oldest job if it is computed; does not wait. If it raises, it removes none.

        Raises:
            AclError: A call failed.
            WrongGradient: The device did not compute the job.
        """
        if not self._queued or not self._acl.has_happened(self._queued[0].slot.copied_out):
            return None
        job = self._queued[0]
        self._require_gradient(job)
        self._queued.popleft()
        if job.is_sampled and self._device.keeps_time:
            job.stages = self._stages(job)
            job.is_sampled = job.stages is not None
        return job

    def wait_for_oldest(self, timeout_ms: int) -> bool:
        """Waits until the oldest job is computed; returns whether it is. Raises AclError."""
        return self._acl.wait_for(self._queued[0].slot.copied_out, timeout_ms)

    def check_for_faults(self) -> None:
        """Raises AclError if a stream has failed: an event behind the failure never happens and reports nothing.

        Source: Event::Synchronize of the runtime, which checks the state of the device every 5 s only.
        """
        for stream in self._streams:
            self._acl.is_empty(stream, _FAULT_CHECK_MS)

    def drain(self, timeout_ms: int, *, is_checked: bool = True) -> list[Job]:
        """Waits until the streams are empty, then removes and returns every job. If it raises, it removes none.

        Args:
            timeout_ms: How long a stream may take.
            is_checked: Whether to check that the device computed the jobs.

        Raises:
            AclError: A call failed.
            WrongGradient: The device did not compute one of the jobs.
        """
        for stream in self._streams:
            self._acl.synchronise(stream, timeout_ms)
        for job in self._queued if is_checked else ():
            self._require_gradient(job)
        return self.pop_all()

    def come_to_rest(self) -> None:
        """Gives running tasks a moment to end before their memory is freed; ignores a failed or hung stream."""
        for stream in self._streams:
            with suppress(AclError):
                self._acl.is_empty(stream, _REST_MS)

    def pop_all(self) -> list[Job]:
        """Removes and returns every job."""
        jobs = list(self._queued)
        self._queued.clear()
        return jobs

    def free_idle_executors(self) -> None:
        """Destroys the executors that are not queued, to free their workspaces; raises AclError."""
        self._device.executors.evict_idle(queued=self._kinds)

    def _queue_in_one_stream(self, job: Job, *, keeps_time: bool) -> None:
        acl, slot = self._acl, job.slot
        stream = self._device.streams.of_slot(slot.number)
        if keeps_time:
            job.is_sampled = acl.stamp(slot.copy_in_begins, stream)
        self._copy_in(job, stream)
        if keeps_time:
            job.is_sampled &= acl.stamp(slot.copied_in, stream)
        self._device.executors.launch(job.key, slot.number, stream)
        if keeps_time:
            job.is_sampled &= acl.stamp(slot.computed, stream)
        self._copy_out(job, stream)
        acl.record(slot.copied_out, stream)

    def _queue_in_three_streams(self, job: Job, *, keeps_time: bool) -> None:
        acl, slot, streams = self._acl, job.slot, self._device.streams
        if keeps_time:
            job.is_sampled = acl.stamp(slot.copy_in_begins, streams.copy_in)
        self._copy_in(job, streams.copy_in)
        acl.record(slot.copied_in, streams.copy_in)
        acl.make_wait(streams.compute, slot.copied_in)
        if keeps_time:
            job.is_sampled &= acl.stamp(slot.kernel_begins, streams.compute)
        self._device.executors.launch(job.key, slot.number, streams.compute)
        acl.record(slot.computed, streams.compute)
        acl.make_wait(streams.copy_out, slot.computed)
        if keeps_time:
            job.is_sampled &= acl.stamp(slot.copy_out_begins, streams.copy_out)
        self._copy_out(job, streams.copy_out)
        acl.record(slot.copied_out, streams.copy_out)

    def _copy_in(self, job: Job, stream: int) -> None:
        slot = job.slot
        self._acl.copy_async(slot.device, slot.host, job.layout.in_bytes, CopyKind.HOST_TO_DEVICE, stream)

    def _copy_out(self, job: Job, stream: int) -> None:
        slot, layout = job.slot, job.layout
        self._acl.copy_async(
            slot.host + layout.y, slot.device + layout.y, layout.operand_bytes, CopyKind.DEVICE_TO_HOST, stream
        )

    def _stages(self, job: Job) -> Stages | None:
        elapsed_s, slot = self._acl.elapsed_s, job.slot
        # In one stream, a stage begins when the one before it has ended.
        kernel_begins, copy_out_begins = (
            (slot.copied_in, slot.computed) if job.layout.is_small else (slot.kernel_begins, slot.copy_out_begins)
        )
        copy_in_s = elapsed_s(slot.copy_in_begins, slot.copied_in)
        kernel_s = elapsed_s(kernel_begins, slot.computed)
        copy_out_s = elapsed_s(copy_out_begins, slot.copied_out)
        if copy_in_s is None or kernel_s is None or copy_out_s is None:
            return None
        return Stages(copy_in_s, kernel_s, copy_out_s)

    def _require_gradient(self, job: Job) -> None:
        self._checked += 1
        sample = None if self._checked % _SUSPECT_EVERY else self._checked * _SAMPLE_STEP
        keeps_subnormals = job.key.data_type in self._device.subnormal_dtypes
        job.slot.require_gradient(job.key, job.layout, keeps_subnormals=keeps_subnormals, sample=sample)

    def _kinds(self) -> set[LaunchKey]:
        return {job.key for job in self._queued}

    @property
    def _streams(self) -> tuple[int, int, int]:
        streams = self._device.streams
        return streams.copy_in, streams.compute, streams.copy_out
