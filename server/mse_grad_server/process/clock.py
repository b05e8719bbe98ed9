"""Clock of the server, which tests replace."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Protocol

__all__ = ["Clock", "LoopClock", "Timer"]


class Timer(Protocol):
    """A scheduled call."""

    def cancel(self) -> None:
        """Cancels the call; does nothing if it was made already."""


class Clock(Protocol):
    """A monotonic clock in seconds."""

    def now(self) -> float:
        """Returns the time; any thread may call it."""

    def call_at(self, when_s: float, callback: Callable[[], None]) -> Timer:
        """Schedules `callback` in the event loop for the time `when_s`."""


class LoopClock:
    """The clock of the running event loop."""

    def __init__(self) -> None:
        # The loops of asyncio use time.monotonic. Unlike loop.time(), compute threads may call it.
        self.now = time.monotonic
        self._loop = asyncio.get_running_loop()

    def call_at(self, when_s: float, callback: Callable[[], None]) -> Timer:
        """Schedules `callback` in the event loop for the time `when_s`."""
        return self._loop.call_at(when_s, callback)
