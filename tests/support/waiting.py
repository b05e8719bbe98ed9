"""Waiting for other threads, other processes, or later turns of the event loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

__all__ = ["PATIENCE_S", "holds_at_some_pace", "until", "wait_until"]

# How long a test waits for an event that must come; only a failing test ever waits that long.
PATIENCE_S = 60.0
# Between two checks the thread sleeps. A loop that only yields takes the interpreter's lock again within microseconds,
# before a thread that waits for the lock is awake: with a core for each, that thread starves for seconds. The pause
# grows, because some conditions connect to a server.
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.001, 0.02

T = TypeVar("T")


async def until(condition: Callable[[], bool], *, patience_s: float = PATIENCE_S) -> None:
    """Waits until `condition` is true; fails if it is not within `patience_s`."""
    give_up_s = time.monotonic() + patience_s
    pauses_s = _pauses_s()
    while not condition():
        assert time.monotonic() < give_up_s, "the condition did not become true"
        await asyncio.sleep(next(pauses_s))


def wait_until(
    condition: Callable[[], T], *, patience_s: float = PATIENCE_S, otherwise: str = "the condition did not become true"
) -> T:
    """Waits until `condition` returns a true value, without an event loop.

    Args:
        condition: Called again and again, by this thread.
        patience_s: Time after which it fails.
        otherwise: Message of the failure.

    Returns:
        The true value.
    """
    give_up_s = time.monotonic() + patience_s
    pauses_s = _pauses_s()
    while not (found := condition()):
        assert time.monotonic() < give_up_s, otherwise
        time.sleep(next(pauses_s))
    return found


def holds_at_some_pace(condition: Callable[[int], bool]) -> bool:
    """Returns whether `condition` becomes true while simulated work takes 1, 4 or 16 times as long.

    For an event that has to come before that work ends. A busy machine may miss it at one pace; a product that waits
    for the work misses it at each.
    """
    return any(condition(pace) for pace in (1, 4, 16))


def _pauses_s() -> Iterator[float]:
    pause_s = _FIRST_PAUSE_S
    while True:
        yield pause_s
        pause_s = min(_LONGEST_PAUSE_S, 1.1 * pause_s)
