"""Time as the server sees it; tests put their own beneath."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Protocol

__all__ = ["Clock", "LoopClock", "Timer"]


class Timer(Protocol):
    """A call to come."""

    def cancel(self) -> None:
        """Calls it off; does nothing where it was made already."""


class Clock(Protocol):
    """A monotonic clock in seconds."""

    def now(self) -> float:
        """Returns the time; from any thread."""

    def call_at(self, when_s: float, callback: Callable[[], None]) -> Timer:
        """Calls `callback` in the event loop once it is `when_s`."""


class LoopClock:
    """The clock of the running event loop."""

    def __init__(self) -> None:
        # asyncio's loops count time.monotonic, which unlike loop.time() may be asked from a thread of computation.
        self.now = time.monotonic
        self._loop = asyncio.get_running_loop()

    def call_at(self, when_s: float, callback: Callable[[], None]) -> Timer:
        """See Clock."""
        return self._loop.call_at(when_s, callback)
