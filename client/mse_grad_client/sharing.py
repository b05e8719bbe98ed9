"""How one connection takes the shorter way to the worker behind it, where that is on this host.

Operands lie in memory that both sides map, and requests go over a unix socket, in a third of HTTP/2's round trip.
"""

from __future__ import annotations

import socket
import threading
from functools import partial
from typing import NamedTuple

from mse_grad.reasons import Reason
from mse_grad_client.errors import MseGradError, Unavailable
from mse_grad_client.exchange import Exchange
from mse_grad_client.handover import Handover, HandoverFailed, connect_for_requests
from mse_grad_client.lanes import fits_packet, is_worth_sharing, shared_exchange
from mse_grad_client.options import ClientOptions
from mse_grad_client.packet_call import PacketCall
from mse_grad_client.region import Region
from mse_grad_client.request import GradientRequest
from mse_grad_client.ride import QUIET_TIMEOUT_S, PacketRide, Ride, SharedRide
from mse_grad_client.shared_exchange import SharedExchange
from mse_grad_client.stream import Stream

__all__ = ["Sharing"]


class _Link(NamedTuple):
    """What one stream has beside it: the handover of memory, and the stream of packets over its connection."""

    handover: Handover
    packets: Stream | None
    connection: socket.socket | None

    def way(self, stream: Stream) -> Stream:
        """Returns the faster of the streams that take requests."""
        return stream if self.packets is None or not self.packets.takes_requests else self.packets

    def close(self, error: MseGradError, *, timeout_s: float) -> None:
        """Ends both; requests in packets fail with `error`."""
        if self.packets is not None and self.connection is not None:
            self.packets.close(error)
            self.connection.close()
        self.handover.wait_ended(timeout_s)
        self.handover.close()


class Sharing:
    """Hands a region over for each stream of the connection. Any number of threads.

    Whatever keeps it from that, gradients go over the stream instead.
    """

    def __init__(self, region: Region, options: ClientOptions, *, address: str) -> None:
        self._region = region
        self._options = options
        self._address = address
        self._lock = threading.Lock()
        self._links: dict[Stream, _Link | None] = {}
        # What a server may still write to: its room must not be another array's.
        self._held: list[tuple[Handover, SharedExchange]] = []

    def start(
        self, stream: Stream, request: GradientRequest, *, request_id: str, deadline: float | None
    ) -> Ride | None:
        """Sends `request` the shorter way; returns None where it has to go over `stream`.

        Args:
            stream: Open.
            request: What is asked for.
            request_id: Its name.
            deadline: When to give up, of time.monotonic.
        """
        link = self._link(stream)
        if link is None:
            return None
        way = link.way(stream)
        try:
            if is_worth_sharing(request, self._region, self._options):
                ride = self._start_in_memory(link.handover, way, request, request_id=request_id, deadline=deadline)
                if ride is not None:
                    return ride
            if way is stream or not fits_packet(request):
                return None
            elements = max(1, request.count)
            return PacketRide(
                way,
                Exchange(request, request_id=request_id, deadline=deadline, chunk_elements=elements, window_chunks=1),
            )
        except Unavailable:  # it ended just now
            return None

    def is_open(self, stream: Stream) -> bool:
        """Returns whether memory is shared with the worker behind the open `stream`."""
        link = self._link(stream)
        return link is not None and link.handover.is_open

    def close(self, error: MseGradError) -> None:
        """Ends every link; requests in packets fail with `error`. The streams have ended; the next one has another."""
        with self._lock:
            for link in self._links.values():
                if link is not None:
                    link.close(error, timeout_s=QUIET_TIMEOUT_S)
            self._links.clear()
            self._held.clear()

    def _start_in_memory(
        self, handover: Handover, way: Stream, request: GradientRequest, *, request_id: str, deadline: float | None
    ) -> Ride | None:
        if not handover.is_open:
            return None
        handover.withdraw_gone(self._region)
        exchange = shared_exchange(
            request, self._region, handover, self._options, request_id=request_id, deadline=deadline
        )
        return None if exchange is None else SharedRide(way, exchange, handover, self._hold)

    def _link(self, stream: Stream) -> _Link | None:
        try:
            return self._links[stream]
        except KeyError:
            pass
        with self._lock:
            if stream not in self._links:
                self._forget_ended()
                self._links[stream] = self._begun(stream)
            return self._links[stream]

    def _begun(self, stream: Stream) -> _Link | None:
        if stream.opened is None:
            return None
        try:
            handover = Handover(stream.opened)
        except HandoverFailed:
            return None
        connection = connect_for_requests(stream.opened)
        if connection is None:
            return _Link(handover, None, None)
        most_bytes = stream.opened.shared_memory.max_packet_bytes
        packets = Stream(partial(PacketCall, connection, most_bytes=most_bytes), address=self._address)
        return _Link(handover, packets, connection)

    def _forget_ended(self) -> None:
        for stream, link in list(self._links.items()):
            if stream.has_ended and (link is None or link.handover.wait_ended(0)):
                del self._links[stream]
                if link is not None:
                    link.close(Unavailable("the stream has ended", reason=Reason.CONNECTION_LOST), timeout_s=0)
        self._held = [
            (handover, exchange)
            for handover, exchange in self._held
            if not (handover.wait_ended(0) or exchange.wait_quiet(0))
        ]

    def _hold(self, handover: Handover, exchange: SharedExchange) -> None:
        with self._lock:
            self._held.append((handover, exchange))
