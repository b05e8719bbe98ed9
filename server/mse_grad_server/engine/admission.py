"""Admission of requests by the bytes of their operands, in messages and in shared memory; belongs to the event loop."""

from __future__ import annotations

import asyncio
from typing import Protocol

from mse_grad_server.engine.fair_queue import FairQueue
from mse_grad_server.engine.shares import Share, most_places
from mse_grad_server.errors import ServerBusy
from mse_grad_server.settings.value_types import size_text

__all__ = ["MessageAdmission", "SharedAdmission", "Waiting"]

# Share of the bound for requests whose operands are still to come. The rest is for requests that arrive with their
# operands: those are computed at once, and requests that only announce operands cannot keep them out.
_ANNOUNCED_SHARE = 7 / 8
# Share of the bound for one client. The rest is for others, announced requests among them.
_CLIENT_SHARE = 3 / 4
# The same in messages with those requests of the client that arrive with their operands.
_CLIENT_WHOLE_SHARE = 7 / 8
# Most waiting requests that begin in one turn of the event loop, which may compute small ones itself.
_BEGINS_PER_TURN = 8


class MessageAdmission:
    """Bound on the operands of requests that come in messages, which the server has to hold.

    A client may announce three quarters of it and hold seven eighths, so that others are not refused. A request of a
    client that holds nothing may have all of it. Requests that only announce keep out nobody, not even clients at the
    same address, whose operands are there.

    Args:
        most_bytes: Most bytes at a time.

    Attributes:
        in_flight_bytes: Bytes admitted and not released.
    """

    def __init__(self, most_bytes: int) -> None:
        self.in_flight_bytes = 0
        self._most_bytes = most_bytes
        self._announced_most_bytes = int(_ANNOUNCED_SHARE * most_bytes)
        self._client_most_bytes = int(_CLIENT_WHOLE_SHARE * most_bytes)
        self._client_announced_most_bytes = int(_CLIENT_SHARE * most_bytes)

    def is_crowded(self, share: Share, size_bytes: int) -> bool:
        """Whether a request of this client that announces `size_bytes` would be refused now."""
        return _exceeds(self.in_flight_bytes, size_bytes, self._announced_most_bytes) or _exceeds(
            share.message_bytes, size_bytes, self._client_announced_most_bytes
        )

    def admit(self, share: Share, size_bytes: int, *, is_announced: bool) -> None:
        """Counts the bytes of a request, or counts nothing and raises ServerBusy or QuotaExceeded."""
        if self.in_flight_bytes + size_bytes > self._most_bytes or (
            is_announced and _exceeds(self.in_flight_bytes, size_bytes, self._announced_most_bytes)
        ):
            raise ServerBusy(
                f"the request needs {size_text(size_bytes)}; {size_text(self.in_flight_bytes)} of "
                f"{size_text(self._most_bytes)} are in use"
            )
        client_most_bytes = self._client_announced_most_bytes if is_announced else self._client_most_bytes
        if _exceeds(share.message_bytes, size_bytes, client_most_bytes):
            raise ServerBusy(
                f"the request needs {size_text(size_bytes)}; this client has {size_text(share.message_bytes)} of "
                f"{size_text(client_most_bytes)}, the most for one client"
            )
        share.require_bytes(size_bytes)
        share.message_bytes += size_bytes
        self.in_flight_bytes += size_bytes

    def release(self, share: Share, size_bytes: int) -> None:
        """Releases the bytes of a request."""
        share.message_bytes -= size_bytes
        self.in_flight_bytes -= size_bytes


class Waiting(Protocol):
    """A request that waits for its bytes.

    Attributes:
        share: What its client holds.
        size_bytes: Bytes of its operands.
        due_s: Time by which it should begin; see `fair_queue.due_s`.
    """

    share: Share
    size_bytes: int
    due_s: float

    def begin(self) -> None:
        """Begins the request: its bytes are counted now."""


class SharedAdmission:
    """Bound on the operands of requests in shared memory, and the queue of those beyond it.

    Such operands lie in memory of the client, so a request that waits costs little more than its header. Therefore it
    waits here instead of being refused, and the server is never idle while requests wait. Clients begin theirs in turn,
    and each client in the order of deadlines. A lone request begins however large it is. A client may hold three
    quarters of the bound, or its quota; beyond that its requests wait too, and other clients pass them.

    Args:
        most_bytes: Most bytes at a time.
        most_waiting: Most requests that wait at a time.

    Attributes:
        in_flight_bytes: Bytes admitted and not released.
    """

    def __init__(self, most_bytes: int, *, most_waiting: int) -> None:
        self.in_flight_bytes = 0
        self._most_bytes = most_bytes
        self._client_most_bytes = int(_CLIENT_SHARE * most_bytes)
        self._most_waiting = most_waiting
        self._waiting: FairQueue[Waiting] = FairQueue()
        self._begins_soon = False

    @property
    def is_blocked(self) -> bool:
        """Whether a request waits and none of them may begin."""
        return bool(self._waiting) and self._next() is None

    def admit(self, request: Waiting) -> bool:
        """Counts the bytes of a request and returns True, or queues it and returns False.

        Raises:
            ServerBusy: Too many requests wait.
        """
        share = request.share
        is_next = self._waiting.first(self._may_hold) is None and not self._waiting.waiting(share)
        if is_next and self._may_hold(request) and self._fits(request):
            self._count(request)
            return True
        waiting = len(self._waiting)
        if waiting >= self._most_waiting:
            raise ServerBusy(f"{waiting} requests are waiting already, the most that the server allows")
        client_waiting = self._waiting.waiting(share)
        if client_waiting >= most_places(self._most_waiting):
            raise ServerBusy(f"{client_waiting} requests of this client are waiting already, the most for one client")
        self._waiting.put(request, client=share, due_s=request.due_s)
        return False

    def forget(self, request: Waiting) -> None:
        """Removes a request from the queue."""
        self._waiting.discard(request)
        self._begin_soon()

    def release(self, share: Share, size_bytes: int) -> None:
        """Releases the bytes of a request."""
        share.shared_bytes -= size_bytes
        self.in_flight_bytes -= size_bytes
        self._begin_soon()

    def _count(self, request: Waiting) -> None:
        request.share.shared_bytes += request.size_bytes
        self.in_flight_bytes += request.size_bytes

    def _fits(self, request: Waiting) -> bool:
        return not self.in_flight_bytes or self.in_flight_bytes + request.size_bytes <= self._most_bytes

    def _may_hold(self, request: Waiting) -> bool:
        share = request.share
        most_bytes = min(self._client_most_bytes, share.most_bytes)
        return not share.shared_bytes or share.shared_bytes + request.size_bytes <= most_bytes

    def _next(self) -> Waiting | None:
        """Returns the request whose turn it is, if it fits: otherwise a small one would always overtake a large one."""
        request = self._waiting.first(self._may_hold)
        return request if request is not None and self._fits(request) else None

    def _begin_soon(self) -> None:
        # Later, because a request may compute as soon as it begins: this is still the end of another one.
        if self._waiting and not self._begins_soon:
            self._begins_soon = True
            asyncio.get_running_loop().call_soon(self._begin_next)

    def _begin_next(self) -> None:
        for _ in range(_BEGINS_PER_TURN):
            request = self._next()
            if request is None:
                break
            self._waiting.take(request)
            self._count(request)
            request.begin()
        self._begins_soon = False
        if not self.is_blocked:
            self._begin_soon()


def _exceeds(held_bytes: int, size_bytes: int, most_bytes: int) -> bool:
    """Whether a further request would exceed a bound; a lone one never does."""
    return bool(held_bytes) and held_bytes + size_bytes > most_bytes
