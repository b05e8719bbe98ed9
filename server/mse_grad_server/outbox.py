"""The answers of one stream, written in the order of their questions."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

from mse_grad_server.clock import Clock

__all__ = ["Outbox"]

# Answers that wait at the same time become one message up to this size: protobuf messages concatenate to their merge.
_MERGE_BYTES = 64 * 1024


class Outbox:
    """A queue with one writer at a time: whoever calls `flush` first. Belongs to the event loop.

    Attributes:
        is_flushing: Whether a writer is at it.
        unanswered_bytes: What was put and not written.
        write_began_s: When the write that is under way began, or None.
    """

    def __init__(self, write: Callable[[bytes], Awaitable[None]], clock: Clock) -> None:
        self.is_flushing = False
        self.unanswered_bytes = 0
        self.write_began_s: float | None = None
        self._write = write
        self._clock = clock
        self._queue: deque[tuple[bytes | asyncio.Future[bytes], int]] = deque()
        self._written: asyncio.Future[None] | None = None

    @property
    def is_empty(self) -> bool:
        """Whether everything that was put is written."""
        return not self._queue and not self.is_flushing

    @property
    def needs_writer(self) -> bool:
        """Whether something was put that nobody is about to write."""
        return bool(self._queue) and not self.is_flushing

    def put(self, answer: bytes | asyncio.Future[bytes], size_bytes: int) -> None:
        """Appends an answer.

        Args:
            answer: A message, or what will become one; an empty one is not sent.
            size_bytes: What it holds in memory until it is written, operands included.
        """
        self.unanswered_bytes += size_bytes
        self._queue.append((answer, size_bytes))

    async def flush(self) -> None:
        """Writes what was put until nothing is left; returns at once where another writer is at it."""
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

    def flush_now(self, write_now: Callable[[bytes], bool]) -> bool:
        """Writes what was put, as far as that needs no waiting; returns whether nothing is left. Nobody else flushes.

        Args:
            write_now: Sends a message, or returns False where there is no room.
        """
        while self._queue:
            answer, size_bytes = self._queue[0]
            if not isinstance(answer, bytes) or (answer and not write_now(answer)):
                return False
            self._queue.popleft()
            self.unanswered_bytes -= size_bytes
        return True

    async def below(self, limit_bytes: int) -> None:
        """Waits until less than `limit_bytes` is unanswered; another coroutine must flush."""
        while self.unanswered_bytes >= limit_bytes:
            self._written = asyncio.get_running_loop().create_future()
            await self._written

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
