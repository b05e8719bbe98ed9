"""Open streams of the server, as far as admission and draining know them; belongs to the event loop."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol

from mse_grad_server.errors import ServerBusy, ServerError
from mse_grad_server.metrics.registry import Metrics

__all__ = ["Drainable", "OpenStreams"]

# Least interval between two searches for silent requests, as a share of give_way_s: a search visits all open requests.
_SEARCH_INTERVAL = 1 / 8


class Drainable(Protocol):
    """A stream, as far as draining and admission know it."""

    def drain(self, reason: ServerError) -> None:
        """Stops accepting requests, tells the client the reason, and ends after its accepted requests.

        A second call does nothing.
        """

    def cut_off(self) -> None:
        """Ends at once, with its requests unfinished: the time to drain is over."""

    def give_way(self) -> None:
        """Fails requests whose client has been silent for give_way_s, because others wait for their bytes."""


class OpenStreams:
    """The streams that are open.

    Args:
        metrics: The metrics of the server.
        most: Most streams at a time that count as open.
        give_way_s: How long a client may be silent while others wait for the bytes that it reserved.
    """

    def __init__(self, metrics: Metrics, *, most: int, give_way_s: float) -> None:
        self._metrics = metrics
        self._most = most
        self._search_interval_s = _SEARCH_INTERVAL * give_way_s
        self._next_search_s = -math.inf
        self._streams: set[Drainable] = set()
        self._placed: set[Drainable] = set()

    def __len__(self) -> int:
        return len(self._streams)

    def add(self, stream: Drainable, *, counts_as_open: bool) -> None:
        """Adds a stream, or raises ServerBusy if too many are open, including those that are about to end."""
        if counts_as_open:
            if len(self._placed) >= 2 * self._most:
                raise ServerBusy(f"{len(self._placed)} streams are open; the server accepts no further ones")
            self._placed.add(stream)
        self._streams.add(stream)
        self._metrics.open_streams.set(len(self._placed))

    def remove(self, stream: Drainable) -> None:
        """Removes a stream that has ended; does nothing if `add` refused it."""
        self._streams.discard(stream)
        self._placed.discard(stream)
        self._metrics.open_streams.set(len(self._placed))

    def make_room(self, now_s: float, has_room: Callable[[], bool]) -> None:
        """Fails silent requests, stream by stream, until `has_room`; does nothing right after another call."""
        if now_s < self._next_search_s:
            return
        self._next_search_s = now_s + self._search_interval_s
        for stream in list(self._streams):
            stream.give_way()
            if has_room():
                return

    def drain(self, reason: ServerError) -> None:
        """Drains every stream."""
        for stream in list(self._streams):
            stream.drain(reason)

    def cut_off(self) -> None:
        """Cuts every stream off."""
        for stream in list(self._streams):
            stream.cut_off()
