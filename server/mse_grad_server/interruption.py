"""Ends what a coroutine waits for, from outside of it."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Any

__all__ = ["Interruption"]


class Interruption:
    """A block of a coroutine that a callback may end; belongs to the event loop.

    Entered with `with` inside of the coroutine. A cancellation that comes from elsewhere passes through.
    """

    def __init__(self) -> None:
        self._task: asyncio.Task[Any] | None = None
        self._is_set = False
        self._error: BaseException | None = None

    def set(self, error: BaseException | None) -> None:
        """Ends the block by raising `error` from it, or quietly; only the first call counts, none once it is over."""
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
        # From Python 3.11 on a task counts its cancellations; this one was our own and is over.
        uncancel = getattr(task, "uncancel", None)
        if uncancel is not None:
            uncancel()
        if self._error is not None:
            raise self._error from None
        return True
