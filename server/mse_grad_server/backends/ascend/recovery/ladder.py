"""Ladder of repairs for a failed device, and a circuit breaker that pauses a device that keeps failing.

Pure rules, which the device thread applies. Not thread-safe.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from enum import IntEnum

from mse_grad_server.backends.ascend.acl.error_codes import Fault

__all__ = ["Ladder", "Rung"]


class Rung(IntEnum):
    """Repairs, mildest first."""

    RETRY = 0
    """Wait until the streams are empty, then queue the failed job again."""
    REBUILD = 1
    """Destroy context, streams and memory, and make new ones."""
    RESET = 2
    """Rebuild as above, with a reset of the device in between."""
    END = 3
    """End the process: the device may work for another process."""


# The rung at which each fault begins. A retry helps neither a wait that timed out, because the stream may be stuck, nor
# a core that faulted, because its streams have stopped. After a memory error every context of the device is poisoned.
_FIRST = {
    Fault.CALLER: Rung.RETRY,
    Fault.MEMORY: Rung.RETRY,
    Fault.UNKNOWN: Rung.RETRY,
    Fault.TIMEOUT: Rung.REBUILD,
    Fault.EXECUTION: Rung.REBUILD,
    Fault.DEVICE: Rung.RESET,
}

_REPAIRS = 3
"""Repairs above a retry, within the window, that open the circuit."""
_WINDOW_S = 60.0
_FIRST_PAUSE_S = 1.0
_LONGEST_PAUSE_S = 30.0


class Ladder:
    """Chooses the rung for each fault, and the pauses.

    A fault gets a higher rung than the one before it, unless a block came back in between. The circuit opens if blocks
    come back but the device needs repair again and again: no request is accepted for a pause, which doubles each time.

    Args:
        now: The clock, in seconds.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._last: Rung | None = None
        self._repairs: deque[float] = deque()
        self._pause_s = _FIRST_PAUSE_S

    def climb(self, fault: Fault) -> Rung:
        """Returns the rung for `fault`."""
        rung = _FIRST[fault]
        if self._last is not None:
            rung = Rung(min(max(rung, self._last + 1), Rung.END))
        self._last = rung
        return rung

    def block_came_back(self) -> None:
        """Resets the ladder: the next fault begins at its first rung again."""
        self._last = None

    def pause(self) -> float:
        """Counts a repair above a retry; returns how many seconds to accept no request after it, mostly 0."""
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
