"""Jobs, each one block for the device thread, and the inbox through which callers hand them over."""

from __future__ import annotations

import threading
import time
from collections import deque
from enum import Enum, auto
from typing import NamedTuple

from mse_grad_server.backends.ascend.device.blocks import LaunchKey, Layout
from mse_grad_server.backends.ascend.device.slots import Slot, SlotPool

__all__ = ["Inbox", "Job", "Outcome", "Stages"]


class Outcome(Enum):
    """How a job ended."""

    COMPUTED = auto()
    """The gradient is in the slot."""
    LOST = auto()
    """The device was repaired meanwhile: the memory of the slot is freed, and the block must be sent again."""
    FAILED = auto()
    """The job failed with `Job.error`."""


class Stages(NamedTuple):
    """Device time of a block in each stage, without the waits between them, in seconds."""

    copy_in_s: float
    kernel_s: float
    copy_out_s: float


class Job:
    """A filled slot and the kind of launch to run on it.

    The thread that filled the slot submits the job and waits for it. Until the job has ended, the slot belongs to the
    device thread.

    Args:
        key: Kind of launch.
        slot: The filled slot.
        pool: The pool to which the slot returns.

    Attributes:
        key: Kind of launch.
        layout: Layout of the block.
        slot: The filled slot.
        attempts: How often the device failed while the block was in this slot.
        error: The error of a failed job; else None.
        ended_s: When it ended, in the time of `time.monotonic`; 0 before.
        is_launched: Whether its copies and its kernel are in the streams of the device.
        is_sampled: Whether the observer receives the times of its stages.
        stages: Its device time in each stage; None if the runtime keeps no time.
    """

    def __init__(self, key: LaunchKey, slot: Slot, pool: SlotPool) -> None:
        self.key = key
        self.layout = Layout.of(key)
        self.slot = slot
        self.attempts = 0
        self.error: Exception | None = None
        self.ended_s = 0.0
        self.is_launched = False
        self.is_sampled = True
        self.stages: Stages | None = None
        self._pool = pool
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._outcome = Outcome.LOST
        self._is_abandoned = False

    def wait(self, timeout_s: float) -> Outcome | None:
        """Returns the outcome, with which the slot is the caller's again; None if the job does not end in time."""
        return self._outcome if self._ended.wait(timeout_s) else None

    def end(self, outcome: Outcome, error: Exception | None = None) -> None:
        """Ends the job and wakes the waiting thread; called once, by the device thread."""
        with self._lock:
            self._outcome = outcome
            self.error = error
            self.ended_s = time.monotonic()
            self._ended.set()
            if self._is_abandoned:
                self._pool.release(self.slot)

    def dropped(self) -> bool:
        """Ends the job if nobody waits for it any longer, and returns whether it did; for the device thread."""
        with self._lock:
            is_abandoned = self._is_abandoned
        if is_abandoned:
            self.end(Outcome.LOST)
        return is_abandoned

    def release(self) -> None:
        """Returns the slot of an ended job to the pool. The waiting thread calls either this or `abandon`."""
        self._pool.release(self.slot)

    def abandon(self) -> None:
        """Stops waiting: the slot returns to the pool as soon as the job has ended."""
        with self._lock:
            if self._ended.is_set():
                self._pool.release(self.slot)
            else:
                self._is_abandoned = True


class Inbox:
    """Queue of submitted jobs, first in, first out. Putting jobs is thread-safe; only the device thread gets them.

    Attributes:
        is_closing: Whether the device thread is to end once no job is left.
    """

    def __init__(self) -> None:
        self.is_closing = False
        self._changed = threading.Condition()
        self._jobs: deque[Job] = deque()
        self._rejection: tuple[Outcome, Exception | None] | None = None

    def put(self, job: Job) -> None:
        """Appends a job, or ends it if jobs are rejected."""
        with self._changed:
            if self._rejection is None:
                self._jobs.append(job)
                self._changed.notify()
                return
            outcome, error = self._rejection
        job.end(outcome, error)

    def get(self, timeout_s: float | None) -> list[Job]:
        """Waits for a job and returns all of them; returns none after the time-out, or if the inbox closes."""
        with self._changed:
            if not self._jobs and not self.is_closing and timeout_s != 0:
                self._changed.wait_for(self._has_news, timeout_s)
            jobs = list(self._jobs)
            self._jobs.clear()
            return jobs

    def reject(self, outcome: Outcome, error: Exception | None = None) -> None:
        """Ends every job that is here or arrives, until `open`."""
        with self._changed:
            self._rejection = (outcome, error)
            jobs = list(self._jobs)
            self._jobs.clear()
        for job in jobs:
            job.end(outcome, error)

    def open(self) -> None:
        """Accepts jobs from now on."""
        with self._changed:
            self._rejection = None

    def close(self) -> None:
        """Tells the device thread to end."""
        with self._changed:
            self.is_closing = True
            self._changed.notify()

    def sleep(self, seconds: float) -> None:
        """Waits this long, whether or not jobs arrive; returns early if the inbox closes."""
        with self._changed:
            self._changed.wait_for(lambda: self.is_closing, seconds)

    def _has_news(self) -> bool:
        return bool(self._jobs) or self.is_closing
