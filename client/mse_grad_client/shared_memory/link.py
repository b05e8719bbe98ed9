"""Shared memory and packets between one connection and its worker, if the worker is on this host.

Operands lie in memory that both sides map, and requests travel as packets of a unix socket, whose round trip takes less
than half as long as that of HTTP/2.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from functools import partial

from mse_grad.reasons import Reason
from mse_grad_client.errors import MseGradError, Unavailable
from mse_grad_client.interrupts import Latch
from mse_grad_client.options import ClientOptions
from mse_grad_client.request import GradientRequest
from mse_grad_client.shared_memory.allocator import Allocator
from mse_grad_client.shared_memory.handover import Handover, HandoverFailed, connect_for_requests
from mse_grad_client.shared_memory.layout import fits_packet, is_worth_sharing, shared_exchange
from mse_grad_client.shared_memory.packet_call import PacketCall
from mse_grad_client.shared_memory.shared_exchange import SharedExchange
from mse_grad_client.shared_memory.shared_pending import SharedPending
from mse_grad_client.stream.exchange import Exchange
from mse_grad_client.stream.pending import Assignment, BesidePending, PendingRequest
from mse_grad_client.stream.stream import Stream

__all__ = ["LocalLink"]

# Longest wait of a failed request, also past its deadline, for the server to stop writing to the gradient. A chunk
# takes a few milliseconds. Later writes go to memory that no caller sees.
_GRACE_S = 0.05
_POLL_S = 0.005
# Most bytes of a packet from the server: more than the kernel buffers on a unix socket by default.
_MOST_PACKET_BYTES = 1024 * 1024


class _LentMemory:
    """The memory of an allocator while one worker has it mapped; see shared_exchange.Memory."""

    def __init__(self, allocator: Allocator, handover: Handover) -> None:
        self._allocator = allocator
        self._handover = handover

    @property
    def withdrawals(self) -> int:
        """How many times a part of it was withdrawn."""
        return self._allocator.withdrawals

    async def done(self, exchange: SharedExchange) -> None:
        """Does the waiting of `recall` for a task, without blocking its event loop."""
        task, give_up_s = exchange.task, time.monotonic() + _GRACE_S
        while task is not None and not self._is_done(exchange, 0) and time.monotonic() < give_up_s:
            await task.until(partial(self._is_done, exchange, 0), time.monotonic() + _POLL_S)

    def recall(self, exchange: SharedExchange) -> None:
        """Waits a short time for the server to finish with the gradient; if it does not, withdraws the memory.

        For a task, `done` has waited already.
        """
        give_up_s = time.monotonic() + (_GRACE_S if exchange.task is None else 0)
        while not self._is_done(exchange, _POLL_S if exchange.task is None else 0):
            if time.monotonic() >= give_up_s:
                y = exchange.y
                if y.place is None:
                    self._allocator.withdraw([slot.place for slot in y.slots])
                else:
                    self._allocator.withdraw([y.place], size_bytes=len(y.contents))
                return

    def _is_done(self, exchange: SharedExchange, timeout_s: float) -> bool:
        return exchange.wait_server_done(timeout_s) or self._handover.wait_ended(0)


class _Channel:
    """The local connections beside one stream of an RPC: the handover of memory, and the stream of packets."""

    __slots__ = ("connection", "handover", "memory", "packets")

    def __init__(
        self, handover: Handover, memory: _LentMemory, packets: Stream | None, connection: socket.socket | None
    ) -> None:
        self.handover = handover
        self.memory = memory
        self.packets = packets
        self.connection = connection

    def fastest(self, stream: Stream) -> Stream:
        """Returns the stream of packets if it takes requests, else `stream`."""
        return stream if self.packets is None or not self.packets.takes_requests else self.packets

    def close(self, error: MseGradError, *, timeout_s: float) -> None:
        """Ends both; requests in packets fail with `error`."""
        if self.packets is not None and self.connection is not None:
            self.packets.close(error)
            self.connection.close()
        self.handover.wait_ended(timeout_s)
        self.handover.close()


class _Opening:
    """A thread that opens a channel: the worker may not answer, and callers wait no longer than they have time.

    Attributes:
        ended: Set once it has ended.
    """

    def __init__(self) -> None:
        self.ended = Latch()

    def begin(self, open: Callable[[], object], *, then: Callable[[], object]) -> None:
        """Starts the thread, or opens in this one if the system starts no further thread."""

        def run() -> None:
            try:
                open()
            finally:
                then()
                self.ended.set()

        try:
            threading.Thread(target=run, name="mse-grad-local", daemon=True).start()
        except RuntimeError:
            run()


class LocalLink:
    """Starts requests over packets and shared memory, for one connection. Thread-safe.

    The worker's offer and the handover decide whether the worker is on this host. The address does not tell: a name, a
    tunnel or a container may lead to this host or to another one. If the link fails for any reason, gradients go over
    the stream instead.

    Args:
        allocator: Allocator of the client's memory.
        options: Options of the client.
        address: Address of the worker, for error texts and for a socket file beside it.
    """

    def __init__(self, allocator: Allocator, options: ClientOptions, *, address: str) -> None:
        self._allocator = allocator
        self._options = options
        self._address = address
        self._lock = threading.Lock()
        self._channels: dict[Stream, _Channel | None] = {}
        self._openings: dict[Stream, _Opening] = {}
        self._is_closed = False

    def start(
        self,
        stream: Stream,
        request: GradientRequest,
        *,
        request_id: str,
        deadline: float | None,
        assignment: Assignment,
    ) -> PendingRequest | None:
        """Sends `request` through shared memory or as a packet; returns None if it has to go over `stream`.

        Args:
            stream: The open stream of the RPC.
            request: The request.
            request_id: Its name in the server's logs.
            deadline: Deadline of the caller on the clock of time.monotonic.
            assignment: The request's claim on the worker.
        """
        channel = self._channel(stream, deadline)
        if channel is None:
            return None
        fastest = channel.fastest(stream)
        try:
            if is_worth_sharing(request, self._allocator, self._options) and channel.handover.is_open:
                exchange = self._shared_exchange(channel, request, request_id=request_id, deadline=deadline)
                if exchange is not None:
                    id = fastest.start(exchange)
                    return SharedPending(fastest, exchange, id, handover=channel.handover, assignment=assignment)
            if fastest is stream or not fits_packet(request, max_message_bytes=_message_bytes(stream)):
                return None
            packed = Exchange(
                request,
                request_id=request_id,
                deadline=deadline,
                chunk_elements=max(1, request.count),
                window_chunks=1,
            )
            return BesidePending(fastest, packed, fastest.start(packed), assignment=assignment)
        except Unavailable:  # the stream has ended just now
            return None

    def knows(self, stream: Stream) -> bool:
        """Returns whether it is already known if `stream` leads to this host; if so, `start` sends at once."""
        return stream in self._channels

    def is_open(self, stream: Stream, *, deadline: float | None = None) -> bool:
        """Returns whether memory is shared with the worker behind the open `stream`, as far as is known in time."""
        channel = self._channel(stream, deadline)
        return channel is not None and channel.handover.is_open

    def has_requests(self, stream: Stream) -> bool:
        """Returns whether a request is under way in the packets beside `stream`."""
        channel = self._channels.get(stream)
        return channel is not None and channel.packets is not None and channel.packets.has_requests

    def close(self, error: MseGradError) -> None:
        """Ends every local connection; requests in packets fail with `error`. End the streams first."""
        with self._lock:
            self._is_closed = True
            for channel in self._channels.values():
                if channel is not None:
                    channel.close(error, timeout_s=_GRACE_S)
            self._channels.clear()

    def _shared_exchange(
        self, channel: _Channel, request: GradientRequest, *, request_id: str, deadline: float | None
    ) -> SharedExchange | None:
        handover = channel.handover
        handover.withdraw_gone(self._allocator, deadline=deadline)
        exchange = shared_exchange(
            request, self._allocator, handover, channel.memory, self._options, request_id=request_id, deadline=deadline
        )
        if exchange is not None:
            exchange.copy_first_chunks()
        return exchange

    def _channel(self, stream: Stream, deadline: float | None) -> _Channel | None:
        """Returns the channel beside `stream`; None if there is none, or it is not known before `deadline`."""
        try:
            return self._channels[stream]
        except KeyError:
            pass
        if deadline is None:
            return self._found_channel(stream)
        opening = _Opening()
        known = self._openings.setdefault(stream, opening)
        if known is opening:
            opening.begin(partial(self._found_channel, stream), then=lambda: self._openings.pop(stream, None))
        known.ended.wait(max(0.0, deadline - time.monotonic()))
        return self._channels.get(stream)

    def _found_channel(self, stream: Stream) -> _Channel | None:
        with self._lock:
            if self._is_closed:
                return None
            if stream not in self._channels:
                self._forget_ended()
                self._channels[stream] = self._open_channel(stream)
            return self._channels[stream]

    def _open_channel(self, stream: Stream) -> _Channel | None:
        if stream.opened is None:
            return None
        try:
            handover = Handover.open(stream.opened, address=self._address)
        except HandoverFailed:
            return None
        self._allocator.is_wanted = True
        connection = connect_for_requests(stream.opened, address=self._address)
        memory = _LentMemory(self._allocator, handover)
        if connection is None:
            return _Channel(handover, memory, None, None)
        max_packet_bytes = min(stream.opened.shared_memory.max_packet_bytes, _MOST_PACKET_BYTES)
        try:
            packets = Stream.open(
                lambda outbox: PacketCall(connection, outbox.next_message, max_packet_bytes=max_packet_bytes),
                address=self._address,
            )
        except RuntimeError:  # the system cannot start another thread
            connection.close()
            return _Channel(handover, memory, None, None)
        return _Channel(handover, memory, packets, connection)

    def _forget_ended(self) -> None:
        for stream, channel in self._channels.copy().items():
            if stream.has_ended and (channel is None or channel.handover.wait_ended(0)):
                del self._channels[stream]
                if channel is not None:
                    channel.close(Unavailable("the stream has ended", reason=Reason.CONNECTION_LOST), timeout_s=0)


def _message_bytes(stream: Stream) -> int:
    return 0 if stream.opened is None else stream.opened.limits.max_stream_message_bytes
