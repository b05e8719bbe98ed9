"""Queue that serves clients in turn, and the items of each client by their time."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush
from itertools import count
from typing import Generic, TypeVar

__all__ = ["PATIENCE_S", "FairQueue", "due_s"]

PATIENCE_S = 1.0
"""Time after which an item without a deadline counts as due. So neither it nor one with a late deadline starves behind
later ones with earlier deadlines."""

Item = TypeVar("Item")


def due_s(deadline_s: float, now_s: float) -> float:
    """Returns the time by which an item that arrives now is served: earliest deadline first, without starving others.

    Args:
        deadline_s: Time when nobody waits for it any longer; infinite without a deadline.
        now_s: Current time.
    """
    return min(deadline_s, now_s + PATIENCE_S)


@dataclass(order=True, slots=True)
class _Place(Generic[Item]):
    due_s: float
    number: int
    item: Item = field(compare=False)
    client: Hashable = field(compare=False)
    is_left: bool = field(default=False, compare=False)


@dataclass(slots=True)
class _Line(Generic[Item]):
    """Places of one client, of which the first is not left, and the round in which the client has its next turn."""

    round: int
    places: list[_Place[Item]] = field(default_factory=list)
    waiting: int = 0


class FairQueue(Generic[Item]):
    """Queue of items; each item is in it once. Not thread-safe.

    Each client has one turn in each round, so a client that puts many items delays only its own. A client that comes
    while another one is served has the next turn. This is start-time fair queueing with items of equal cost (Goyal, Vin
    and Cheng, SIGCOMM 1996).
    """

    def __init__(self) -> None:
        self._lines: dict[Hashable, _Line[Item]] = {}  # none is empty
        self._places: dict[Item, _Place[Item]] = {}
        self._numbers = count()
        self._round = 0  # of the last turn
        self._next_round: dict[Hashable, int] = {}  # of clients without a line that had a turn in this round

    def __len__(self) -> int:
        return len(self._places)

    def waiting(self, client: Hashable) -> int:
        """Returns the number of items of one client."""
        line = self._lines.get(client)
        return 0 if line is None else line.waiting

    def put(self, item: Item, *, client: Hashable, due_s: float) -> None:
        """Appends an item.

        Args:
            item: The item.
            client: Client whose turn it takes.
            due_s: Its place among the items of this client: the earliest first, of equal ones the older.
        """
        place = _Place(due_s, next(self._numbers), item, client)
        self._places[item] = place
        line = self._lines.get(client)
        if line is None:
            line = self._lines[client] = _Line(max(self._round, self._next_round.pop(client, 0)))
        heappush(line.places, place)
        line.waiting += 1

    def first(self, passes: Callable[[Item], bool] = lambda item: True) -> Item | None:
        """Returns the item that is next, which stays in the queue; None without one.

        Args:
            passes: Whether a client may have its turn with this item, its first; otherwise the next client has.
        """
        lines = [line for line in self._lines.values() if passes(line.places[0].item)]
        return min(lines, key=lambda line: line.round).places[0].item if lines else None

    def take(self, item: Item) -> None:
        """Removes an item that is served now, which is the turn of its client."""
        client = self._places[item].client
        line = self._lines[client]
        if line.round > self._round:
            self._round = line.round
            self._next_round.clear()
        line.round += 1
        self.discard(item)

    def pop(self) -> Item:
        """Removes and returns the next item; the queue may not be empty."""
        item = self.first()
        assert item is not None
        self.take(item)
        return item

    def discard(self, item: Item) -> None:
        """Removes an item that is no longer wanted; does nothing if it is not in the queue."""
        place = self._places.pop(item, None)
        if place is None:
            return
        place.is_left = True
        line = self._lines[place.client]
        line.waiting -= 1
        if not line.waiting:
            del self._lines[place.client]
            if line.round > self._round:
                self._next_round[place.client] = line.round
            return
        while line.places[0].is_left:
            heappop(line.places)
        if len(line.places) > 2 * line.waiting:  # places that were left in the middle would fill the memory
            line.places = [each for each in line.places if not each.is_left]
            heapify(line.places)
