"""The garbage collector of Python: what only it would free, and what runs while it does."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["during_collections", "kept_garbage"]


@contextmanager
def kept_garbage() -> Iterator[None]:
    """Makes the collector keep its findings in `gc.garbage`, and run only when the test calls it."""
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        yield
    finally:
        gc.set_debug(0)
        gc.enable()
        gc.garbage.clear()
        gc.collect()


@contextmanager
def during_collections(change: Callable[[], None]) -> Iterator[None]:
    """Calls `change` whenever the collector runs, which is as often as it can, as another thread might do meanwhile."""

    def run(phase: str, _: dict[str, int]) -> None:
        if phase == "start":
            change()

    thresholds = gc.get_threshold()
    gc.callbacks.append(run)
    gc.set_threshold(1)
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)
        gc.callbacks.remove(run)
