"""Outbox of one stream: answers in the order of their requests, written one at a time."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

from mse_grad_server.process.clock import Clock

__all__ = ["Outbox"]

# Answers that wait at the same time become one message up to this size: protobuf messages concatenate to their merge.
_MERGE_BYTES = 64 * 1024


class Outbox:
    """Queue of answers with one writer at a time, the first caller of a `flush`; belongs to the event loop.

    Args:
        write: Sends a message; returns when there is room for the next.
        clock: Clock.

    Attributes:
        is_flushing: Whether a writer is active.
        unanswered_bytes: Bytes of answers that were put and are not written.
        write_began_s: Time when the current write began, or None.
    """

    def __init__(self, write: Callable[[bytes], Awaitable[None]], clock: Clock) -> None:
        self.is_flushing = False
        self.unanswered_bytes = 0
        self.write_began_s: float | None = None
        self._write = write
        self._clock = clock
        self._queue: deque[tuple[bytes | asyncio.Future[bytes], int]] = deque()
        self._written: asyncio.Future[None] | None = None
        self._writer: asyncio.Task[None] | None = None

    @property
    def is_empty(self) -> bool:
        """Whether every answer is written."""
        return not self._queue and not self.is_flushing

    def put(self, answer: bytes | asyncio.Future[bytes], size_bytes: int) -> None:
        """Appends an answer.

        Args:
            answer: Message, or the future of one; an empty message is not sent.
            size_bytes: Memory that it holds until it is written, operands included.
        """
        self.unanswered_bytes += size_bytes
        self._queue.append((answer, size_bytes))

    async def flush(self) -> None:
        """Writes answers until none is left; returns at once if another writer is active."""
        if self.is_flushing:
            return
        self.is_flushing = True
        try:
            while self._queue:
                answer, size_bytes = self._queue[0]
                message = answer if isinstance(answer, bytes) else await answer
                self._queue.popleft()
                if self._queue and len(message) < _MERGE_BYTES:
                    message, size_bytes = self._merged(message, size_bytes)
                if message:
                    self.write_began_s = self._clock.now()
                    await self._write(message)
                    self.write_began_s = None
                self.unanswered_bytes -= size_bytes
                if self._written is not None and not self._written.done():
                    self._written.set_result(None)
        finally:
            self.is_flushing = False

    def flush_in_task(self, on_flushed: Callable[[BaseException | None], None]) -> None:
        """Writes answers in a task; does nothing if none waits or a writer is active.

        Args:
            on_flushed: Called when the task has ended, with its error or None.
        """
        if self._writer is None and self._queue and not self.is_flushing:
            self._writer = asyncio.get_running_loop().create_task(self.flush())
            self._writer.add_done_callback(lambda writer: self._end_task(writer, on_flushed))

    def flush_now(self, write_now: Callable[[bytes], bool]) -> bool:
        """Writes answers as far as that needs no waiting; returns whether none is left.

        No writer may be active.

        Args:
            write_now: Sends a message, or returns False if there is no room for it.
        """
        while self._queue:
            answer, size_bytes = self._queue[0]
            if not isinstance(answer, bytes) or (answer and not write_now(answer)):
                return False
            self._queue.popleft()
            self.unanswered_bytes -= size_bytes
        return True

    async def below(self, limit_bytes: int) -> None:
        """Waits until fewer than `limit_bytes` are unanswered; another coroutine must flush."""
        while self.unanswered_bytes >= limit_bytes:
            await self._next_write()

    async def emptied(self, *, more_comes: Callable[[], bool]) -> None:
        """Waits until every answer is written, also those that hold no memory here; another coroutine must flush.

        Args:
            more_comes: Whether an answer will still be put.
        """
        while not self.is_empty or more_comes():
            await self._next_write()

    async def _next_write(self) -> None:
        self._written = asyncio.get_running_loop().create_future()
        await self._written

    def close(self) -> None:
        """Drops all answers that are not written, and cancels the task of `flush_in_task`."""
        if self._writer is not None:
            self._writer.cancel()
        for answer, _ in self._queue:
            if not isinstance(answer, bytes):
                answer.cancel()
        self._queue.clear()

    def _end_task(self, writer: asyncio.Task[None], on_flushed: Callable[[BaseException | None], None]) -> None:
        self._writer = None
        if not writer.cancelled():
            on_flushed(writer.exception())

    def _merged(self, message: bytes, size_bytes: int) -> tuple[bytes, int]:
        parts = [message]
        total_bytes = len(message)
        while self._queue:
            answer, answer_bytes = self._queue[0]
            if not isinstance(answer, bytes) or total_bytes + len(answer) > _MERGE_BYTES:
                break
            self._queue.popleft()
            parts.append(answer)
            total_bytes += len(answer)
            size_bytes += answer_bytes
        return b"".join(parts), size_bytes
