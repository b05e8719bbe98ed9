"""Admission of requests by the bytes of their operands, in messages and in shared memory; belongs to the event loop."""

from __future__ import annotations

import asyncio
from typing import Protocol

from mse_grad_server.errors import ServerBusy
from mse_grad_server.settings.value_types import size_text

__all__ = ["MessageAdmission", "SharedAdmission", "Waiting"]

# Share of the bound for requests whose operands are still to come. The rest is for requests that arrive with their
# operands: those are computed at once, and requests that only announce operands cannot keep them out.
_ANNOUNCED_SHARE = 7 / 8
# Most waiting requests that begin in one turn of the event loop, which may compute small ones itself.
_BEGINS_PER_TURN = 8


class MessageAdmission:
    """Bound on the operands of requests that come in messages, which the server has to hold.

    Args:
        most_bytes: Most bytes at a time.

    Attributes:
        in_flight_bytes: Bytes admitted and not released.
    """

    def __init__(self, most_bytes: int) -> None:
        self.in_flight_bytes = 0
        self._most_bytes = most_bytes
        self._announced_most_bytes = int(_ANNOUNCED_SHARE * most_bytes)

    def is_crowded(self, size_bytes: int) -> bool:
        """Whether a request that announces `size_bytes` would be refused now."""
        return bool(self.in_flight_bytes) and self.in_flight_bytes + size_bytes > self._announced_most_bytes

    def admit(self, size_bytes: int, *, is_announced: bool) -> None:
        """Counts the bytes of a request, or counts nothing and raises ServerBusy."""
        if self.in_flight_bytes + size_bytes > self._most_bytes or (is_announced and self.is_crowded(size_bytes)):
            raise ServerBusy(
                f"the request needs {size_text(size_bytes)}; {size_text(self.in_flight_bytes)} of "
                f"{size_text(self._most_bytes)} are in use"
            )
        self.in_flight_bytes += size_bytes


class Waiting(Protocol):
    """A request that waits for its bytes.

    Attributes:
        size_bytes: Bytes of its operands.
    """

    size_bytes: int

    def begin(self) -> None:
        """Begins the request: its bytes are counted now."""


class SharedAdmission:
    """Bound on the operands of requests in shared memory, and the queue of those beyond it.

    Such operands lie in memory of the client, so a request that waits costs little more than its header. Therefore it
    waits here instead of being refused, and the server is never idle while requests wait. They begin in the order of
    their arrival, whichever client they came from. A lone request begins however large it is.

    Args:
        most_bytes: Most bytes at a time.
        most_waiting: Most requests that wait at a time.

    Attributes:
        in_flight_bytes: Bytes admitted and not released.
    """

    def __init__(self, most_bytes: int, *, most_waiting: int) -> None:
        self.in_flight_bytes = 0
        self._most_bytes = most_bytes
        self._most_waiting = most_waiting
        self._waiting: dict[Waiting, None] = {}
        self._begins_soon = False

    @property
    def is_blocked(self) -> bool:
        """Whether a request waits and does not fit."""
        return bool(self._waiting) and not self._fits(next(iter(self._waiting)))

    def admit(self, request: Waiting) -> bool:
        """Counts the bytes of a request and returns True, or queues it and returns False.

        Raises:
            ServerBusy: Too many requests wait.
        """
        if not self._waiting and self._fits(request):
            self.in_flight_bytes += request.size_bytes
            return True
        if len(self._waiting) >= self._most_waiting:
            raise ServerBusy(f"{len(self._waiting)} requests wait for others already, the most that may")
        self._waiting[request] = None
        return False

    def forget(self, request: Waiting) -> None:
        """Removes a request from the queue."""
        self._waiting.pop(request, None)
        self._begin_soon()

    def release(self, size_bytes: int) -> None:
        """Releases the bytes of a request."""
        self.in_flight_bytes -= size_bytes
        self._begin_soon()

    def _fits(self, request: Waiting) -> bool:
        return not self.in_flight_bytes or self.in_flight_bytes + request.size_bytes <= self._most_bytes

    def _begin_soon(self) -> None:
        # Later, because a request may compute as soon as it begins: this is still the end of another one.
        if self._waiting and not self._begins_soon:
            self._begins_soon = True
            asyncio.get_running_loop().call_soon(self._begin_next)

    def _begin_next(self) -> None:
        for _ in range(_BEGINS_PER_TURN):
            if not self._waiting or self.is_blocked:
                break
            request = next(iter(self._waiting))
            del self._waiting[request]
            self.in_flight_bytes += request.size_bytes
            request.begin()
        self._begins_soon = False
        if not self.is_blocked:
            self._begin_soon()
