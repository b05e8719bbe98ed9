"""What each client holds of the server: its requests, its bytes, and its turns in the event loop."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Hashable

from mse_grad_server.errors import QuotaExceeded
from mse_grad_server.settings.value_types import size_text

__all__ = ["Share", "Shares", "most_places"]


def most_places(most: int) -> int:
    """Returns how many of `most` places one client may take, so that another client still finds one."""
    return most - most // 8


class Share:
    """What one client holds, over all of its calls; belongs to the event loop.

    Args:
        client: The client.

    Attributes:
        client: As given.
        name: Name of the client in metrics; "" for none.
        most_requests: Most requests under way.
        most_bytes: Most operand bytes in flight in messages, and as many in shared memory.
        calls: Its calls for gradients under way, of which a stream is one.
        requests: Its requests under way, those that wait for admission among them.
        message_bytes: Bytes of its admitted operands in messages.
        shared_bytes: Bytes of its admitted operands in shared memory.
        takes_turns: Whether its calls take turns in the event loop: it has several, and another client has some too.
        long_messages: Lock of its stream that handles one part of a long message: one part in each turn of the loop.
    """

    __slots__ = (
        "_is_turn",
        "_waiting",
        "calls",
        "client",
        "long_messages",
        "message_bytes",
        "most_bytes",
        "most_requests",
        "name",
        "requests",
        "shared_bytes",
        "takes_turns",
    )

    def __init__(self, client: Hashable = None) -> None:
        self.client = client
        self.name = ""
        self.most_requests = math.inf
        self.most_bytes = math.inf
        self.calls = 0
        self.requests = 0
        self.message_bytes = 0
        self.shared_bytes = 0
        self.takes_turns = False
        self.long_messages = asyncio.Lock()
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._is_turn = False

    @property
    def in_flight_bytes(self) -> int:
        """Bytes of its admitted operands."""
        return self.message_bytes + self.shared_bytes

    def require_request(self) -> None:
        """Raises QuotaExceeded if the client may not begin a further request."""
        if self.requests >= self.most_requests:
            raise QuotaExceeded(f"{self.requests} requests of this token are under way, the most that it may have")

    def require_bytes(self, size_bytes: int) -> None:
        """Raises QuotaExceeded unless the client may have `size_bytes` more in messages; a lone request always may."""
        held_bytes = self.message_bytes
        if held_bytes + size_bytes > self.most_bytes and held_bytes:
            raise QuotaExceeded(
                f"the request needs {size_text(size_bytes)}; this token has {size_text(held_bytes)} in flight of at "
                f"most {size_text(int(self.most_bytes))}"
            )

    async def turn(self) -> None:
        """Waits until no other call of the client had a turn in this turn of the event loop.

        Otherwise a message of each of a client's streams would be read and handled before one of another client.
        """
        loop = asyncio.get_running_loop()
        if not self._is_turn:
            self._is_turn = True
            loop.call_soon(self._next_turn)
            return
        waiting: asyncio.Future[None] = loop.create_future()
        self._waiting.append(waiting)
        await waiting

    def _next_turn(self) -> None:
        while self._waiting:
            waiting = self._waiting.popleft()
            if not waiting.done():
                waiting.set_result(None)
                asyncio.get_running_loop().call_soon(self._next_turn)
                return
        self._is_turn = False


class Shares:
    """Shares of all clients that have calls or streams; belongs to the event loop."""

    def __init__(self) -> None:
        self._shares: dict[Hashable, Share] = {}

    def of(self, client: Hashable) -> Share:
        """Returns the share of a client, an empty one if it has no calls."""
        return self._shares.get(client) or Share(client)

    def enter(
        self, client: Hashable, *, name: str = "", most_requests: float = math.inf, most_bytes: float = math.inf
    ) -> Share:
        """Returns the share of a client that begins a call; see `Share` for the arguments."""
        share = self.of(client)
        share.name, share.most_requests, share.most_bytes = name, most_requests, most_bytes
        self.begin(share)
        return share

    def begin(self, share: Share) -> None:
        """Begins a call of a client."""
        share.calls += 1
        if share.calls == 1:
            self._shares[share.client] = share
            self._number_changed(1)
        share.takes_turns = share.calls > 1 and len(self._shares) > 1

    def leave(self, share: Share) -> None:
        """Ends a call of a client."""
        share.calls -= 1
        share.takes_turns = share.calls > 1 and len(self._shares) > 1
        if not share.calls:
            del self._shares[share.client]
            self._number_changed(-1)

    def in_flight(self) -> list[tuple[str, int, int]]:
        """Returns name, requests and bytes of each client with a name; any thread may call it."""
        named = [share for share in list(self._shares.values()) if share.name]
        return [(share.name, share.requests, share.in_flight_bytes) for share in named]

    def _number_changed(self, by: int) -> None:
        # Nobody takes turns with itself.
        if 1 in (len(self._shares), len(self._shares) - by):
            for share in self._shares.values():
                share.takes_turns = share.calls > 1 and len(self._shares) > 1
