"""Collection of cyclic garbage at times when it delays the event loop least.

A full collection visits every object that may be part of a cycle, about a microsecond each, and nothing else runs
meanwhile. Python begins one whenever there are enough new objects: in a flood of RPCs, while most of them are in use.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator
from contextlib import contextmanager

from mse_grad_server.process.clock import Clock

__all__ = ["Collector", "controlled_collections"]

# Collections of the middle generation after which a full one is due. Python's own count is the same.
_DUE_AFTER = 10
# A full collection that is due waits while there are more tasks than this. An RPC is two tasks and about 100 objects.
_MOST_TASKS = 200
# Longest time that a due collection waits. While few tasks run, a collection also happens this long after the previous
# one even if none is due, so that the memory of a flood of RPCs is released afterwards.
_MOST_WAIT_S = 10.0
# Interval between checks.
_CHECK_S = 1.0
# Threshold that the middle generation never reaches, so Python itself begins no full collection.
_NEVER = 2**31 - 1


class Collector:
    """Begins the full collections of a process; belongs to the event loop."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._collected_s = clock.now()
        self._due_since_s: float | None = None

    async def run(self) -> None:
        """Collects, whenever that is due, until it is cancelled."""
        while True:
            await asyncio.sleep(_CHECK_S)
            self.look()

    def look(self) -> bool:
        """Runs a full collection if one is due or overdue and few tasks run, or if one has waited too long.

        Returns:
            Whether it ran.
        """
        now_s = self._clock.now()
        _, younger, older = gc.get_count()
        is_due = older >= _DUE_AFTER
        has_few_tasks = len(asyncio.all_tasks()) <= _MOST_TASKS
        if is_due and self._due_since_s is None:
            self._due_since_s = now_s
        has_waited = self._due_since_s is not None and now_s - self._due_since_s >= _MOST_WAIT_S
        is_overdue = bool(younger or older) and now_s - self._collected_s >= _MOST_WAIT_S
        if not (has_waited or (has_few_tasks and (is_due or is_overdue))):
            return False
        self._due_since_s = None
        gc.collect()
        self._collected_s = now_s
        return True


@contextmanager
def controlled_collections() -> Iterator[None]:
    """Disables Python's own full collections in favour of a `Collector`.

    Excludes the roughly 60,000 existing objects from them.
    """
    thresholds = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(*thresholds[:2], _NEVER)
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)
        gc.unfreeze()
