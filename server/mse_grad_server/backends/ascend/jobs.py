"""One block on its way: handed to the device thread by the thread that filled its slot, which waits for it."""

from __future__ import annotations

import threading
import time
from enum import Enum, auto
from typing import NamedTuple

from mse_grad_server.backends.ascend.blocks import LaunchKey, Layout
from mse_grad_server.backends.ascend.slots import Slot, SlotPool

__all__ = ["Job", "Outcome", "Stages"]


class Outcome(Enum):
    """How the way of a block ended."""

    COMPUTED = auto()
    """The gradient is in the slot."""
    LOST = auto()
    """The device was repaired under it: the memory of the slot goes, and the block is to be sent again."""
    FAILED = auto()
    """It ends with `Job.error`."""


class Stages(NamedTuple):
    """How long a block was in each stage, by the clock of the device, without the waits between them; in seconds."""

    copy_in_s: float
    kernel_s: float
    copy_out_s: float


class Job:
    """A filled slot and what to do with it. The slot belongs to the device thread until the job has ended.

    Attributes:
        key: Kind of launch.
        layout: Where the operands lie.
        slot: The filled slot.
        attempts: How often the device failed under it in this slot.
        error: Why it failed, where it did.
        ended_s: When it ended, once it has; of time.monotonic.
        stages: How long it was where, where the device told.
    """

    def __init__(self, key: LaunchKey, slot: Slot, pool: SlotPool) -> None:
        self.key = key
        self.layout = Layout.of(key)
        self.slot = slot
        self.attempts = 0
        self.error: Exception | None = None
        self.ended_s = 0.0
        self.stages: Stages | None = None
        self._pool = pool
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._outcome = Outcome.LOST
        self._is_abandoned = False

    def wait(self, timeout_s: float) -> Outcome | None:
        """Returns how it ended, and the slot is the caller's again; None where it did not end within the time."""
        return self._outcome if self._ended.wait(timeout_s) else None

    def end(self, outcome: Outcome, error: Exception | None = None) -> None:
        """Tells the thread that waits; called once, by the device thread."""
        with self._lock:
            self._outcome = outcome
            self.error = error
            self.ended_s = time.monotonic()
            self._ended.set()
            if self._is_abandoned:
                self._pool.give_back(self.slot)

    def release(self) -> None:
        """Gives the slot of a job that ended back; called by the thread that waited for it, or `abandon` is."""
        self._pool.give_back(self.slot)

    def abandon(self) -> None:
        """Waits no more: the slot goes back to the pool as soon as the device is done with it."""
        with self._lock:
            if self._ended.is_set():
                self._pool.give_back(self.slot)
            else:
                self._is_abandoned = True
