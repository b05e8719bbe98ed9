"""One turn of a contender: calls, each timed."""

from __future__ import annotations

import time
from collections.abc import Callable

__all__ = ["timed_calls"]

CALLS_AT_MOST = 100


def timed_calls(call: Callable[[], object], budget_s: float) -> list[float]:
    """Calls for about `budget_s` seconds, at least once and at most a hundred times; returns each time, in seconds."""
    times_s: list[float] = []
    end = time.perf_counter() + budget_s
    while len(times_s) < CALLS_AT_MOST:
        start = time.perf_counter()
        call()
        now = time.perf_counter()
        times_s.append(now - start)
        if now >= end:
            break
    return times_s
