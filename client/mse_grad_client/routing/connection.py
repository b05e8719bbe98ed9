"""Connection to one address: a channel, and the stream that carries requests."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from functools import partial

from typing_extensions import override

from mse_grad.methods import STREAM_GRADIENTS, full_name
from mse_grad.reasons import Reason
from mse_grad.v1 import mse_grad_pb2 as pb
from mse_grad_client.direct.link import DirectLink
from mse_grad_client.direct.wire import IS_SUPPORTED, TlsWire, Wire, connect, leads_here
from mse_grad_client.errors import DeadlineExceeded, MseGradError, Unavailable
from mse_grad_client.events import Events
from mse_grad_client.interrupts import Latch
from mse_grad_client.options import ClientOptions
from mse_grad_client.request import GradientRequest
from mse_grad_client.retry import Awaited, Replaced, StreamStale
from mse_grad_client.routing.address import host_and_port, is_own
from mse_grad_client.routing.arrivals import Waiting
from mse_grad_client.routing.channel import Channel, time_left_s
from mse_grad_client.routing.credentials import Credentials
from mse_grad_client.routing.old_streams import OldStreams
from mse_grad_client.shared_memory.allocator import Allocator
from mse_grad_client.shared_memory.link import LocalLink
from mse_grad_client.stream.chunking import chunk_elements, window_chunks
from mse_grad_client.stream.cygrpc_call import open_call, release_locks
from mse_grad_client.stream.exchange import Exchange
from mse_grad_client.stream.pending import Assignment, BesidePending, PendingRequest, StreamPending, is_stale
from mse_grad_client.stream.stream import Stream

__all__ = ["Connection"]

# How long requests begin with one chunk after the server rejected one as busy. A rejected request has already sent its
# first window, up to 12 MiB: under overload that was more data than all operands of computed gradients.
_BUSY_S = 1.0
# How long a question for the transport waits for a direct connection.
_PATIENCE_S = 1.0
# Longest time to connect beside the stream, and for each step of TLS.
_CONNECT_S = 5.0


class Connection(Channel):
    """Opens channel and stream when they are first needed, and again after either has ended. Thread-safe.

    Args:
        address: "host:port", "[ipv6]:port" or "unix:/path".
        options: Options of the client.
        credentials: Certificates and tokens of the client.
        closed: Set when the client is closed; nothing is opened from then on.
        allocator: Allocator of memory to share with a worker on this host; None to share none.
        on_stream: Called after each opening of a stream, in the thread that needed it.

    Attributes:
        address: As given.
        in_flight_bytes, turn: Bytes of predict under way here, and its next turn; the worker pool's lock guards both.

    Raises:
        ValueError: `address` has none of these forms.
    """

    def __init__(
        self,
        address: str,
        *,
        options: ClientOptions,
        credentials: Credentials,
        closed: Latch,
        allocator: Allocator | None = None,
        on_stream: Callable[[], None] | None = None,
    ) -> None:
        super().__init__(address, credentials=credentials, closed=closed)
        self.in_flight_bytes = self.turn = 0
        self._options = options
        self._on_stream = on_stream
        self._link = None if allocator is None else LocalLink(allocator, options, address=address)
        is_wanted = options.direct and IS_SUPPORTED
        has_direct = is_wanted and options.open_channel is None and not address.startswith("unix:")
        events = Events(options.metrics)
        self._direct = DirectLink(self._connect_directly, address=address, events=events) if has_direct else None
        max_age_s = options.max_stream_age_s
        self._old_streams = None if max_age_s is None else OldStreams(max_age_s, self._has_requests_beside)
        self._stream: Stream | None = None
        self._busy_until_s = 0.0

    @property
    def takes_requests(self) -> bool:
        """Whether a request may be sent here, as far as is known without asking."""
        stream = self._stream
        return stream is None or stream.takes_requests

    @property
    def is_open(self) -> bool:
        """Whether `start` sends at once, as far as is known, without waiting for the server."""
        stream = self._stream
        is_due = self._old_streams is not None and self._old_streams.is_due
        return stream is not None and stream.takes_requests and not is_due and self._is_ready(stream)

    def arrival(self) -> AbstractContextManager[Waiting] | None:
        """Returns the wait for a server that a task must make in place of a call; None if there is a server here."""
        return None

    def open(self) -> None:
        """Blocks until requests are sent at once; raises MseGradError as `start`."""
        stream, _ = self._live_stream()
        self._limits(stream, None)
        if self._link is not None:
            self._link.is_open(stream)

    def start(
        self,
        request: GradientRequest,
        *,
        request_id: str,
        deadline: float | None,
        assignment: Assignment,
        by_stream: bool = False,
    ) -> PendingRequest:
        """Sends a request the shortest way there is, opening a stream if none is open.

        Args:
            request: The request.
            request_id: Its name in the server's logs.
            deadline: Deadline of the caller on the clock of time.monotonic.
            assignment: The request's claim on this connection.
            by_stream: Whether to send it over the stream of the RPC even if the worker is on this host.

        Raises:
            StreamStale: The stream, opened for an earlier request, has ended; the next one will be new.
            Replaced: The connection was closed; the next one opens a stream.
            ClientClosed: The client was closed.
            TlsFailed, Unauthenticated: A file of the credentials cannot be used.
            MseGradError: The stream does not open.
        """
        stream, is_first = self._live_stream(deadline)
        if request.task is not None and not self._is_ready(stream):  # no thread may wait in a loop
            raise Awaited("the stream has to be opened first")
        if self._old_streams is not None:
            self._old_streams.used()
        try:
            limits = self._limits(stream, deadline)
            if self._link is not None and not by_stream:
                pending = self._link.start(
                    stream, request, request_id=request_id, deadline=deadline, assignment=assignment
                )
                if pending is not None:
                    return pending
            exchange = partial(
                Exchange,
                request,
                request_id=request_id,
                deadline=deadline,
                chunk_elements=chunk_elements(limits, self._options, itemsize_bytes=request.dtype.itemsize_bytes),
                window_chunks=window_chunks(limits, self._options),
                first_chunks=1 if time.monotonic() < self._busy_until_s else None,
            )
            direct = None if self._direct is None or by_stream else self._direct.beside(stream)
            if direct is not None:
                sent = exchange()
                with suppress(Unavailable):  # it has ended just now
                    return BesidePending(direct, sent, direct.start(sent), assignment=assignment)
            sent = exchange()
            return StreamPending(stream, sent, stream.start(sent), is_first=is_first, assignment=assignment)
        except Unavailable as error:
            if is_stale(error, stream, is_first=is_first):
                raise StreamStale.of(error) from None
            raise

    def note_failure(self, error: MseGradError) -> None:
        """Notes the error of a request that was sent here; a busy server gets small requests first."""
        if error.reason in (Reason.SERVER_BUSY, Reason.QUOTA_EXCEEDED):
            self._busy_until_s = time.monotonic() + _BUSY_S

    def forget_ended_stream(self) -> None:
        """Lets the next request open a new stream if the old one accepts no further requests."""
        with self._lock:
            if not self.takes_requests:
                self._stream = None

    def transport(self, *, deadline: float | None, may_wait: bool) -> tuple[str, str]:
        """Returns `transport` and `direct_failure` of ServerInfo, opening a stream to find out; raises MseGradError.

        Args:
            deadline: Deadline on the clock of time.monotonic.
            may_wait: Whether to wait a short time for a direct connection.
        """
        if self._link is not None or self._direct is not None:
            stream, _ = self._live_stream(deadline)
            if stream.wait_opened(time_left_s(deadline)) is not None:
                if self._link is not None and self._link.is_open(stream, deadline=deadline):
                    return "shared_memory", ""
                patience_s = min(_PATIENCE_S if may_wait else 0.0, time_left_s(deadline) or _PATIENCE_S)
                if self._direct is not None:
                    if self._direct.wait(stream, patience_s):
                        return "direct", ""
                    return "stream", self._direct.failure(stream)
        return "stream", ""

    def close(self, error: MseGradError) -> None:
        """Ends stream and channel for good; requests under way, and later ones, fail with `error`."""
        self._close_error = error
        with self._lock:
            stream, channel = self._stream, self._channel
            self._stream = self._channel = None
        if stream is not None:
            stream.close(error)
        if self._old_streams is not None:
            self._old_streams.close(error)
        if self._link is not None:
            self._link.close(error)
        if self._direct is not None:
            self._direct.close(error)
        if channel is not None:
            channel.close()

    def release_locks(self) -> None:
        """Releases the locks of gRPC that an interrupted thread, this one, holds; only `close` may follow."""
        channel = self._channel
        if channel is not None:
            release_locks(channel)
        if self._old_streams is not None:
            self._old_streams.release_locks()

    def _live_stream(self, deadline: float | None = None) -> tuple[Stream, bool]:
        """Returns a stream that takes requests, as far as is known, and whether it was opened just now.

        It does not wait for the server; `deadline` is for connections that wait for other reasons.
        """
        with self._lock:
            stream, old_streams = self._stream, self._old_streams
            if old_streams is not None:
                old_streams.end_idle()
                if stream is not None and old_streams.is_due:
                    old_streams.add(stream, self._channel)
                    self._stream = self._channel = stream = None
            if stream is not None and stream.takes_requests:
                return stream, False
            channel, metadata = self._open_channel(), self._credentials.metadata(self.address)
            method = full_name(STREAM_GRADIENTS)
            try:
                stream = self._stream = Stream.open(
                    lambda outbox: open_call(channel, method, outbox.next_message, metadata), address=self._place
                )
            except ValueError as error:  # gRPC raises it for a channel that was closed meanwhile
                raise Replaced("the connection was closed", reason=Reason.CONNECTION_LOST) from error
            if old_streams is not None:
                old_streams.opened()
        if self._on_stream is not None:
            self._on_stream()
        return stream, True

    @property
    @override
    def _has_live_stream(self) -> bool:
        return self._stream is not None and self._stream.takes_requests

    def _connect_directly(self, offer: pb.DirectOffer) -> Wire:
        if self._credentials.proxy(self.address) is not None:
            raise OSError("the server is reached through a proxy")
        host = offer.host or host_and_port(self.address)[0].strip("[]")
        context = self._credentials.context(self.address)
        connection = connect(host, offer.port, timeout_s=_CONNECT_S)
        # Services of this machine may trust whoever reaches them, and the server chose the bytes of the greeting.
        if offer.host and leads_here(connection) and not is_own(self.address):
            connection.close()
            raise OSError(
                "the server is on another machine but offered an address of this one, which the client refuses"
            )
        if context is None:
            return Wire(connection)
        return TlsWire(connection, context, server_name=self._credentials.server_name)

    def _has_requests_beside(self, stream: Stream) -> bool:
        return any(link is not None and link.has_requests(stream) for link in (self._link, self._direct))

    def _is_ready(self, stream: Stream) -> bool:
        return stream.opened is not None and (self._link is None or self._link.knows(stream))

    def _limits(self, stream: Stream, deadline: float | None) -> pb.Limits:
        limits = stream.wait_opened(time_left_s(deadline))
        if limits is None:
            raise DeadlineExceeded(
                f"{self._place} did not open a stream within the time given", reason=Reason.DEADLINE_EXCEEDED
            )
        return limits
