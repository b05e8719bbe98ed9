"""Places for RPCs: a bound on open RPCs of one kind, and the choice of the RPC that gives way to a new one.

When every place is taken, an RPC whose caller is silent gives its place to the new RPC. The connection with the most
places gives way first. So a caller cannot keep others out by opening RPCs and sending nothing.

One client may take seven eighths of the places for gradients, over all of its connections, so that another client still
finds one.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable
from operator import itemgetter
from typing import Protocol, TypeAlias

from mse_grad_server.engine.shares import most_places
from mse_grad_server.errors import ServerBusy
from mse_grad_server.process.clock import Clock

__all__ = ["Occupant", "Places"]

_Key: TypeAlias = tuple[Hashable, str]
"""A client and one of its connections."""


class Occupant(Protocol):
    """RPC that takes a place."""

    @property
    def idle_since_s(self) -> float | None:
        """Time since which the server waits for the caller; None while the caller waits for the server."""

    @property
    def client(self) -> Hashable:
        """The client whose places are bounded; None if they are not."""

    def peer(self) -> str:
        """Returns the address of the client's connection, as gRPC writes it."""

    def give_way(self) -> None:
        """Ends soon, with an error that gives the caller the reason."""


class Places:
    """Places for RPCs of one kind; belongs to the event loop.

    Args:
        most: Most RPCs at a time.
        clock: Clock.
        noun: What the error text calls the RPCs, such as "streams".
        patience_s: Time that an RPC may be idle until it gives way to one whose connection has as many places.
    """

    def __init__(self, most: int, clock: Clock, *, noun: str, patience_s: float = 0.0) -> None:
        self._most = most
        self._clock = clock
        self._noun = noun
        self._patience_s = patience_s
        self._key_of: dict[Occupant, _Key] = {}
        self._held: dict[_Key, _Held] = {}
        self._client_most = most_places(most)
        self._of_client: Counter[Hashable] = Counter()

    def __len__(self) -> int:
        return len(self._key_of)

    def take(self, newcomer: Occupant) -> None:
        """Gives `newcomer` a place until it leaves or gives way; raises ServerBusy if no RPC gives way to it."""
        key = client, _ = newcomer.client, newcomer.peer()
        if client is not None and self._of_client[client] >= self._client_most:
            self._make_room(key, among=client)
        elif len(self._key_of) >= self._most:
            self._make_room(key)
        self._key_of[newcomer] = key
        self._of_client[client] += 1
        held = self._held.get(key)
        if held is None:
            held = self._held[key] = _Held()
        held.occupants[newcomer] = None

    def leave(self, occupant: Occupant) -> None:
        """Frees the place of `occupant`; does nothing if it no longer has one."""
        key = self._key_of.pop(occupant, None)
        if key is None:
            return
        held = self._held[key]
        del held.occupants[occupant]
        if not held.occupants:
            del self._held[key]
        self._of_client[key[0]] -= 1
        if not self._of_client[key[0]]:
            del self._of_client[key[0]]

    def _make_room(self, newcomer: _Key, *, among: Hashable = None) -> None:
        """Ends an RPC of any client, or of the client `among`."""
        own = len(self._held[newcomer].occupants) + 1 if newcomer in self._held else 1
        patient_s = self._clock.now() - self._patience_s
        chosen, most_held, longest_s = None, 0, math.inf
        for (client, _), held in self._held.items():
            if among is not None and client != among:
                continue
            count = len(held.occupants)
            if count < most_held or (idle := held.longest_idle()) is None:
                continue
            idle_since_s, occupant = idle
            if (count > own or idle_since_s <= patient_s) and (-count, idle_since_s) < (-most_held, longest_s):
                chosen, most_held, longest_s = occupant, count, idle_since_s
        if chosen is None:
            of_client = "" if among is None else " of this client"
            count = len(self._key_of) if among is None else self._of_client[among]
            raise ServerBusy(f"{count} {self._noun}{of_client} are open; the server accepts no further ones")
        self.leave(chosen)
        chosen.give_way()


class _Held:
    """The RPCs of one connection that have places."""

    __slots__ = ("_idle", "occupants")

    def __init__(self) -> None:
        self.occupants: dict[Occupant, None] = {}
        # The longest idle last. An RPC that is not in here became idle after those that still are as they were.
        self._idle: list[tuple[float, Occupant]] = []

    def longest_idle(self) -> tuple[float, Occupant] | None:
        """Returns the RPC that has been idle longest, with the time since when; None if none is idle."""
        for _ in range(2):
            while self._idle:
                idle_since_s, occupant = self._idle[-1]
                if occupant in self.occupants and occupant.idle_since_s == idle_since_s:
                    return self._idle[-1]
                self._idle.pop()
            idle = [(since_s, each) for each in self.occupants if (since_s := each.idle_since_s) is not None]
            self._idle = sorted(idle, key=itemgetter(0))[::-1]  # of two with the same time, the older one goes first
        return None
