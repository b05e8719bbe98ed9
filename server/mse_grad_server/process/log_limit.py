"""Rate limit of the log by event and reason, so that failing callers cannot fill a disk."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from structlog import DropEvent
from structlog.typing import EventDict, FilteringBoundLogger

__all__ = ["LogLimit"]

_MOST_LINES = 50
_WINDOW_S = 10.0


@dataclass
class _Window:
    ends_s: float
    lines: int = 0
    lost: int = 0


class LogLimit:
    """Passes at most 50 lines of one event and reason in ten seconds. Any thread may use it.

    Lines of libraries count by the name of their logger. Callers choose none of these words, so they are few.

    Args:
        on_lost: Called for each dropped line.
        now: Returns the time in seconds.
    """

    def __init__(self, on_lost: Callable[[], None], *, now: Callable[[], float] = time.monotonic) -> None:
        self._on_lost = on_lost
        self._now = now
        # Reentrant, because a finalizer that logs may run while this thread holds the lock.
        self._lock = threading.RLock()
        self._windows: dict[tuple[str, str], _Window] = {}

    def __call__(self, _: object, __: str, event: EventDict) -> EventDict:
        """Returns the event, or raises DropEvent; this is a processor of structlog."""
        key = (str(event["event"]), str(event.get("reason") or event.get("logger", "")))
        with self._lock:
            window = self._windows.get(key)
            if window is None:
                window = self._windows[key] = _Window(self._now() + _WINDOW_S)
            window.lines += 1
            if window.lines <= _MOST_LINES:
                return event
            window.lost += 1
        self._on_lost()
        raise DropEvent

    def report(self, log: FilteringBoundLogger, *, is_last: bool = False) -> None:
        """Logs the number of dropped lines for each event and reason whose ten seconds are over.

        Args:
            log: The log that receives the lines.
            is_last: Whether the process ends; then the ten seconds need not be over.
        """
        with self._lock:
            over = {key: one for key, one in self._windows.items() if is_last or self._now() >= one.ends_s}
            for key in over:
                del self._windows[key]
        for (event, reason), window in over.items():
            if window.lost:
                log.warning("lines_left_out", lines=window.lost, of_event=event, reason=reason)
