"""Waiting for what other threads, other processes, or later turns of the event loop bring about."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

__all__ = ["PATIENCE_S", "until", "wait_until"]

# How long a test waits for what must come; only a failing one ever waits that long.
PATIENCE_S = 20.0
# Between two looks the thread sleeps. A loop that only gives turns takes the interpreter's lock again within
# microseconds, before a thread that waits for it is awake: with a core for each, that thread starves for seconds.
_LOOK_S = 0.001


async def until(condition: Callable[[], bool], *, patience_s: float = PATIENCE_S) -> None:
    """Waits until `condition` holds; fails where it does not within `patience_s`."""
    loop = asyncio.get_running_loop()
    give_up_s = loop.time() + patience_s
    while not condition():
        assert loop.time() < give_up_s, "it did not come true"
        await asyncio.sleep(_LOOK_S)


def wait_until(condition: Callable[[], bool], *, patience_s: float = PATIENCE_S) -> None:
    """As `until`, without an event loop."""
    give_up_s = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < give_up_s, "it did not come true"
        time.sleep(_LOOK_S)
