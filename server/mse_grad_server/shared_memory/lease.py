"""Lease of a client's memory to one stream: its segments and connections, from the offer to the end of the stream."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from mse_grad.v1 import mse_grad_pb2 as pb
from mse_grad_server.direct.packet_socket import PacketSocket
from mse_grad_server.direct.packets import Packets
from mse_grad_server.errors import SharedMemoryDenied
from mse_grad_server.shared_memory.segments import Segments

__all__ = ["Lease", "ServePackets"]

ServePackets: TypeAlias = "Callable[[Lease, PacketSocket], Packets]"
"""Serves requests over a connection until it ends, and returns the connection's packets at once."""


class Lease:
    """Memory and connections of one stream; belongs to the event loop.

    The client hands over memory on one connection and may send requests on a second one. When the server closes them,
    it no longer writes to the memory.

    Args:
        offer: Offer that the client gets in the first message of the stream.
        segments: Segments of the stream.
        serve_packets: Serves the connection for requests.
        on_close: Called once, when the stream has ended.

    Attributes:
        offer: Offer that the client gets in the first message of the stream.
        segments: Segments that the client handed over.
    """

    def __init__(
        self,
        offer: pb.SharedMemoryOffer,
        segments: Segments,
        *,
        serve_packets: ServePackets,
        on_close: Callable[[Lease], None],
    ) -> None:
        self.offer = offer
        self.segments = segments
        self._serve_packets = serve_packets
        self._on_close = on_close
        self._close_memory: Callable[[], None] | None = None
        self._packets: Packets | None = None
        self._uses = 0
        self._is_closed = False
        self._has_hung_up = False

    def attach_memory(self, close: Callable[[], None]) -> None:
        """Attaches the connection for memory, which has shown the secret.

        Args:
            close: Closes the connection; a second call does nothing.

        Raises:
            SharedMemoryDenied: Another connection for memory has shown the secret.
        """
        if self._close_memory is not None:
            raise SharedMemoryDenied("another connection has shown this secret; each stream has its own")
        self._close_memory = close

    def open_packets(self, connection: PacketSocket) -> Packets:
        """Attaches the connection for requests, which has shown the secret, and begins to serve it.

        Args:
            connection: The connection; owned by the returned packets.

        Raises:
            SharedMemoryDenied: Another connection for requests has shown the secret.
        """
        if self._packets is not None:
            raise SharedMemoryDenied("another connection for requests has shown this secret; each stream has one")
        self._packets = self._serve_packets(self, connection)
        return self._packets

    def hang_up(self) -> None:
        """Withdraws all segments, because the client has closed a connection."""
        self._has_hung_up = True
        self.segments.close()
        self._close_connections()

    def begin_use(self) -> None:
        """Keeps the connections open while a thread computes in the memory, until `end_use`."""
        self._uses += 1

    def end_use(self) -> None:
        """Ends one use that `begin_use` began."""
        self._uses -= 1
        self._close_connections()

    def close(self) -> None:
        """Withdraws all segments, because the stream has ended; a second call does nothing."""
        if not self._is_closed:
            self._is_closed = True
            self._on_close(self)
            # The callback holds the stream, which holds this lease: the cycle would keep the whole RPC in memory.
            self._serve_packets = _serve_closed
            self.segments.close()
            self._close_connections()

    def _close_connections(self) -> None:
        # Closing the connections tells the client that its memory is no longer written. So they stay open while a
        # computation uses the memory.
        if self._uses or not (self._is_closed or self._has_hung_up):
            return
        if self._close_memory is not None:
            self._close_memory()
        if self._packets is not None:
            self._packets.close()


def _serve_closed(lease: Lease, connection: PacketSocket) -> Packets:
    raise AssertionError("a closed lease opens no packets")
