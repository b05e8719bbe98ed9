"""Room on a busy server: the order in which requests that it refused go again."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Awaitable, Callable

from typing_extensions import override

from mse_grad_client.interrupts import Latch, Releasable
from mse_grad_client.retry import Wake

__all__ = ["Room"]


class Room:
    """Tells refused requests of one client when its other requests have made room for them. Thread-safe.

    A server refuses requests while it holds as many bytes as it admits. The client knows of the bytes that are free
    again: those of its own requests that were answered. Refused requests go again in their order, each once answers
    of its size have come, and so a server under load is never idle while they all pause. The client sends no more
    bytes again than were answered.

    Args:
        closed: Set when the client is closed; ends every pause.
    """

    def __init__(self, closed: Latch) -> None:
        self._closed = closed
        self._lock = threading.Lock()
        self._turns: deque[_Turn] = deque()

    async def pause(self, wait: Callable[[Latch, float], Awaitable[bool]], pause_s: float, size_bytes: int) -> Wake:
        """Waits `pause_s` seconds, or until the refused request may go again.

        Args:
            wait: Waits for a latch, for so many seconds at most; see Waiter.pause.
            pause_s: Seconds.
            size_bytes: Bytes of predict of the request; 0 waits for the time alone.
        """
        if not size_bytes:
            return Wake.CLOSED if await wait(self._closed, pause_s) else Wake.TIME
        turn = _Turn(size_bytes)
        self._closed.tell(turn)
        try:
            with self._lock:
                self._turns.append(turn)
            if not self._closed.is_set():
                await wait(turn.has_come, pause_s)
        finally:
            self._closed.forget(turn)
            with self._lock:
                if turn in self._turns:
                    self._turns.remove(turn)
        if self._closed.is_set():
            return Wake.CLOSED
        return Wake.ROOM if turn.has_come.is_set() else Wake.TIME

    def answered(self, size_bytes: int) -> None:
        """A request with `size_bytes` of predict was answered."""
        if not self._turns:
            return
        with self._lock:
            while self._turns and size_bytes >= self._turns[0].missing_bytes:
                turn = self._turns.popleft()
                size_bytes -= turn.missing_bytes
                turn.has_come.set()
            if self._turns:
                self._turns[0].missing_bytes -= size_bytes


class _Turn(Releasable):
    """The turn of one refused request.

    Attributes:
        missing_bytes: Bytes that must still be answered, after those for the turns before it.
        has_come: Set when it has come, or when the client is closed.
    """

    def __init__(self, missing_bytes: int) -> None:
        self.missing_bytes = missing_bytes
        self.has_come = Latch()

    @override
    def release(self) -> None:
        self.has_come.set()
