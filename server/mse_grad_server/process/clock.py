"""Clock of the server, which tests replace."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextvars import copy_context
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
        # A timer keeps its context even after it is cancelled. The context of an RPC refers to the RPC, which often
        # refers to the timer: only a garbage collection would free this cycle.
        self._context = copy_context()

    def call_at(self, when_s: float, callback: Callable[[], None]) -> Timer:
        """Schedules `callback` in the event loop for the time `when_s`, outside the context of the current RPC."""
        return self._loop.call_at(when_s, callback, context=self._context)
