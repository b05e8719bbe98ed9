"""An error that is raised, as a signal handler may do it, between a context manager and its block."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from types import FunctionType
from typing import Any
from unittest import mock

__all__ = ["Interrupt", "interrupting"]


class Interrupt(Exception):
    """What `interrupting` raises."""


@contextlib.contextmanager
def interrupting() -> Iterator[list[bool]]:
    """Raises `Interrupt` once, in this thread, when a generator of `contextlib` has begun and its block has not.

    The frame that raises belongs to `contextlib`, as if a signal had interrupted it. The block may be one of gRPC.

    Yields:
        A list that is no longer empty once it has raised.
    """
    kind = contextlib._GeneratorContextManager
    raised: list[bool] = []
    here = threading.get_ident()

    def is_here() -> bool:
        return threading.get_ident() == here

    def enter(
        self: Any,
        raised: list[bool] = raised,
        original: Callable[[Any], Any] = kind.__enter__,
        is_here: Callable[[], bool] = is_here,
        interrupt: type[Interrupt] = Interrupt,
    ) -> Any:
        if raised or not is_here():
            return original(self)
        next(self.gen)
        raised.append(True)
        raise interrupt

    in_contextlib = FunctionType(enter.__code__, vars(contextlib), "__enter__", enter.__defaults__)
    with mock.patch.object(kind, "__enter__", in_contextlib):
        yield raised
