"""What only Python's garbage collector would free."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["kept_garbage"]


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
