"""Watchdog of the device thread: notices a call that does not return."""

from __future__ import annotations

import time

__all__ = ["Watchdog"]


class Watchdog:
    """Time-out for the calls of one thread, which other threads check.

    It needs no lock: one attribute is written by the watched thread and read by the others.

    Attributes:
        limit_s: How long a call may take, in seconds.
    """

    def __init__(self, limit_s: float) -> None:
        self.limit_s = limit_s
        self._armed_at_s: float | None = None

    def arm(self) -> None:
        """Restarts the timer; called before each call that may not return, and between two such calls."""
        self._armed_at_s = time.monotonic()

    def disarm(self) -> None:
        """Stops the time: the thread is about to wait for other threads, which may take any time."""
        self._armed_at_s = None

    def is_overdue(self) -> bool:
        """Returns whether the watched thread has been in a call for longer than the limit."""
        armed_at_s = self._armed_at_s
        return armed_at_s is not None and time.monotonic() - armed_at_s > self.limit_s
