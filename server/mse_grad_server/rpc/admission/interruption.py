"""Interruption of a waiting coroutine by a callback."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Any

from typing_extensions import override

from mse_grad_server.engine.streams import Drainable
from mse_grad_server.errors import ServerError

__all__ = ["Interruptible", "Interruption"]


class Interruption:
    """Block of a coroutine that a callback may end; belongs to the event loop.

    The coroutine enters it with `with`. A cancellation from elsewhere passes through.
    """

    def __init__(self) -> None:
        self._task: asyncio.Task[Any] | None = None
        self._is_set = False
        self._error: BaseException | None = None

    def set(self, error: BaseException | None) -> None:
        """Ends the block, which raises `error` if there is one.

        Only the first call has an effect, and none after the block has ended.
        """
        if self._task is not None and not self._is_set:
            self._is_set = True
            self._error = error
            self._task.cancel()

    def __enter__(self) -> Interruption:
        self._task = asyncio.current_task()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        task, self._task = self._task, None
        if not self._is_set or not isinstance(error, asyncio.CancelledError):
            return False
        # A task counts its cancellations; this one was our own and is over.
        if task is not None:
            task.uncancel()
        raised, self._error = self._error, None
        if raised is None:
            return True
        try:
            raise raised from None
        finally:
            del raised, error, traceback  # only the garbage collector frees an error that its own frames hold


class Interruptible(Drainable):
    """Stream whose messages are answered at once, so that it ends as soon as it has to drain.

    Args:
        interruption: Ends its block.
    """

    def __init__(self, interruption: Interruption) -> None:
        self._interruption = interruption

    @override
    def drain(self, reason: ServerError) -> None:
        self._interruption.set(reason)

    @override
    def cut_off(self) -> None:
        """Does nothing: the stream has ended."""

    @override
    def give_way(self) -> None:
        """Does nothing: the stream has reserved no bytes."""
