"""What one stream has of its client's memory, from its opening to its end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from mse_grad.v1 import mse_grad_pb2 as pb
from mse_grad_server.errors import SharedMemoryDenied
from mse_grad_server.packets import Packets
from mse_grad_server.segments import Segments

__all__ = ["Closable", "Lease"]


class Closable(Protocol):
    """A connection, as far as a lease knows it."""

    def close(self) -> None:
        """Closes it; a second call does nothing."""


class Lease:
    """Belongs to the event loop.

    Attributes:
        offer: What the client is told.
        segments: What it handed over.
        serve: Called with the connection for requests, which it answers until that ends.
    """

    serve: Callable[[Packets], object]

    def __init__(self, offer: pb.SharedMemoryOffer, segments: Segments, *, on_close: Callable[[Lease], None]) -> None:
        self.offer = offer
        self.segments = segments
        self._on_close = on_close
        self._memory: Closable | None = None
        self._requests: Closable | None = None
        self._computing = 0
        self._is_closed = False
        self._has_hung_up = False

    def attach(self, connection: Closable) -> None:
        """Takes the connection that showed the secret; raises SharedMemoryDenied where another one did before."""
        if self._memory is not None:
            raise SharedMemoryDenied("another connection has shown this secret; each stream has one of its own")
        self._memory = connection

    def attach_requests(self, connection: Packets) -> None:
        """Likewise, the one for requests."""
        if self._requests is not None:
            raise SharedMemoryDenied("another connection for requests has shown this secret; each stream has one")
        self._requests = connection

    def hang_up(self) -> None:
        """The client has closed its side of a connection, and so taken everything back."""
        self._has_hung_up = True
        self.segments.close()
        self._close_connections()

    def begin(self) -> None:
        """Something is computed in the memory from now on, until `end`."""
        self._computing += 1

    def end(self) -> None:
        """It is over."""
        self._computing -= 1
        self._close_connections()

    def close(self) -> None:
        """The stream has ended; a second call does nothing."""
        if not self._is_closed:
            self._is_closed = True
            self._on_close(self)
            self.segments.close()
            self._close_connections()

    def _close_connections(self) -> None:
        # The client takes it for the word that nobody writes to its memory any more.
        if self._computing or not (self._is_closed or self._has_hung_up):
            return
        for connection in (self._memory, self._requests):
            if connection is not None:
                connection.close()
