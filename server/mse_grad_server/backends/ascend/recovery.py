"""What is done when the device fails: a ladder of repairs, and a circuit that gives it a rest.

Pure rules; the device thread climbs. Not thread-safe.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from enum import IntEnum

from mse_grad_server.backends.ascend.faults import Fault

__all__ = ["Ladder", "Rung"]


class Rung(IntEnum):
    """Repairs, mildest first."""

    RETRY = 0
    """Wait until the streams are empty, then queue again what failed."""
    REBUILD = 1
    """Destroy context, streams and memory, and make them anew."""
    RESET = 2
    """The same, and reset the device in between."""
    END = 3
    """End the process: another one may find the device well."""


# A wait that ran out is not waited for again, and a core that faulted has stopped its streams: neither is helped by a
# retry. After a memory error every context of the device is poisoned.
_FIRST = {
    Fault.CALLER: Rung.RETRY,
    Fault.MEMORY: Rung.RETRY,
    Fault.UNKNOWN: Rung.RETRY,
    Fault.TIMEOUT: Rung.REBUILD,
    Fault.EXECUTION: Rung.REBUILD,
    Fault.DEVICE: Rung.RESET,
}

_REPAIRS = 3
"""Repairs above a retry within the window that open the circuit."""
_WINDOW_S = 60.0
_FIRST_PAUSE_S = 1.0
_LONGEST_PAUSE_S = 30.0


class Ladder:
    """Chooses the rung after each fault, and when to rest.

    A fault climbs higher than the one before it unless a block came back in between. Repairs that keep being needed
    although blocks come back open the circuit: for a pause, twice as long each time, no request is taken.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        """Takes the clock, in seconds."""
        self._now = now
        self._last: Rung | None = None
        self._repairs: deque[float] = deque()
        self._pause_s = _FIRST_PAUSE_S

    def climb(self, fault: Fault) -> Rung:
        """Returns what to do about `fault`."""
        rung = _FIRST[fault]
        if self._last is not None:
            rung = Rung(min(max(rung, self._last + 1), Rung.END))
        self._last = rung
        return rung

    def block_came_back(self) -> None:
        """The next fault begins at its first rung again."""
        self._last = None

    def pause(self) -> float:
        """Counts a repair above a retry; returns for how long to take no request after it, in seconds, often 0."""
        now_s = self._now()
        if self._repairs and self._repairs[-1] < now_s - _WINDOW_S:
            self._pause_s = _FIRST_PAUSE_S
        self._repairs.append(now_s)
        while self._repairs[0] < now_s - _WINDOW_S:
            self._repairs.popleft()
        if len(self._repairs) < _REPAIRS:
            return 0.0
        pause_s = self._pause_s
        self._pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
        return pause_s
