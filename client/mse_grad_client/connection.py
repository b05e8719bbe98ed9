"""The connection to one address: its channel, and the stream that requests ride."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Protocol

import grpc

from mse_grad.reasons import Reason
from mse_grad.v1 import mse_grad_pb2 as pb
from mse_grad_client.address import grpc_target, is_on_this_host
from mse_grad_client.call import open_call
from mse_grad_client.credentials import Credentials
from mse_grad_client.errors import ClientClosed, DeadlineExceeded, MseGradError, Unavailable, from_rpc_error
from mse_grad_client.exchange import Exchange
from mse_grad_client.options import ClientOptions
from mse_grad_client.region import Region
from mse_grad_client.request import GradientRequest
from mse_grad_client.ride import Ride, StreamRide
from mse_grad_client.sharing import Sharing
from mse_grad_client.stream import MESSAGE_RESERVE_BYTES, Stream

__all__ = ["Connection", "InfoCall"]

_SERVICE = "/mse_grad.v1.MseGradService"
_STREAM_METHOD = f"{_SERVICE}/StreamGradients"
_INFO_REQUEST = pb.GetServerInfoRequest().SerializeToString()
_DEFAULT_CHUNK_BYTES = 512 * 1024
_DEFAULT_WINDOW_CHUNKS = 8


class InfoCall(Protocol):
    """A GetServerInfo RPC under way."""

    def cancel(self) -> bool:
        """Ends it from this side."""

    def code(self) -> grpc.StatusCode:
        """Returns how it ended, once it has."""

    def result(self) -> pb.GetServerInfoResponse:
        """Returns the answer of one that ended with OK."""


class Connection:
    """Opens channel and stream when they are first needed, and again after either ended. Any number of threads.

    Args:
        address: "host:port", "[ipv6]:port" or "unix:/path".
        options: Those of the client.
        credentials: Whom it trusts and who it is.
        closed: Set where the client is closed; nothing is opened from then on.
        region: Memory to share with a worker on this host; None where none is to be shared.
        on_stream: Called whenever a stream was opened, in the thread that needed it.

    Attributes:
        address: As it was given.
        in_flight_bytes: Bytes of predict in the requests that the fleet has sent here; kept under the fleet's lock.

    Raises:
        ValueError: `address` has none of these forms.
    """

    def __init__(
        self,
        address: str,
        *,
        options: ClientOptions,
        credentials: Credentials,
        closed: threading.Event,
        region: Region | None = None,
        on_stream: Callable[[], None] | None = None,
    ) -> None:
        self.address = address
        self.in_flight_bytes = 0
        self._target = grpc_target(address)
        self._options = options
        self._credentials = credentials
        self._credentials_state: list[object] = []
        self._closed = closed
        self._on_stream = on_stream
        self._sharing = (
            None if region is None or not is_on_this_host(address) else Sharing(region, options, address=address)
        )
        self._lock = threading.Lock()
        self._channel: grpc.Channel | None = None
        self._stream: Stream | None = None

    @property
    def takes_requests(self) -> bool:
        """Whether a request may be sent here, as far as is known without asking."""
        stream = self._stream
        return stream is None or stream.takes_requests

    def live_stream(self) -> tuple[Stream, bool]:
        """Returns a stream that takes requests, as far as is known, and whether it was opened just now."""
        with self._lock:
            stream = self._stream
            if stream is not None and stream.takes_requests:
                return stream, False
            channel, metadata = self._open_channel(), self._credentials.metadata(self.address)
            opening = partial(open_call, channel, _STREAM_METHOD, metadata=metadata)
            stream = self._stream = Stream(opening, address=self.address)
        if self._on_stream is not None:
            self._on_stream()
        return stream, True

    def forget_ended_stream(self) -> None:
        """Lets the next request open another stream where this one takes none any more."""
        with self._lock:
            if not self.takes_requests:
                self._stream = None

    def start(self, stream: Stream, request: GradientRequest, *, request_id: str, deadline: float | None) -> Ride:
        """Sends `request` once `stream` is open, the shortest way there is; raises MseGradError."""
        limits = self._limits(stream, deadline)
        if self._sharing is not None:
            ride = self._sharing.start(stream, request, request_id=request_id, deadline=deadline)
            if ride is not None:
                return ride
        return self._start_on(stream, limits, request, request_id=request_id, deadline=deadline)

    def run_on(self, stream: Stream, request: GradientRequest, *, request_id: str, deadline: float | None) -> None:
        """Fills the gradient of `request`; raises MseGradError."""
        ride = self.start(stream, request, request_id=request_id, deadline=deadline)
        try:
            ride.finish()
        except MseGradError as error:
            if not ride.has_to_go_elsewhere(error):
                raise
            limits = self._limits(stream, deadline)
            self._start_on(stream, limits, request, request_id=request_id, deadline=deadline).finish()

    def shares_memory(self, *, deadline: float | None) -> bool:
        """Returns whether the worker maps memory of this process, opening a stream to find out; raises MseGradError."""
        if self._sharing is None:
            return False
        stream, _ = self.live_stream()
        return stream.wait_opened(_time_left_s(deadline)) is not None and self._sharing.is_open(stream)

    def call(self, method: str, message: bytes, *, request_id: str, deadline: float | None) -> bytes:
        """Returns the answer of a unary RPC; raises MseGradError."""
        with self._lock:
            channel = self._open_channel()
        call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(f"{_SERVICE}/{method}")
        try:
            metadata = (("x-request-id", request_id), *self._credentials.metadata(self.address))
            return call(message, timeout=_time_left_s(deadline), metadata=metadata)
        except grpc.RpcError as error:
            if self._closed.is_set():
                raise ClientClosed("the client was closed") from error
            raise from_rpc_error(error, address=self.address) from error
        except ValueError as error:  # gRPC's word for a channel that was closed meanwhile
            raise Unavailable("the connection was closed", reason=Reason.CONNECTION_LOST) from error

    def server_info(self, *, request_id: str, deadline: float | None) -> pb.GetServerInfoResponse:
        """Returns the answer of GetServerInfo; raises MseGradError."""
        answer = self.call("GetServerInfo", _INFO_REQUEST, request_id=request_id, deadline=deadline)
        return pb.GetServerInfoResponse.FromString(answer)

    def ask_server_info(self, *, timeout_s: float) -> InfoCall:
        """Returns a GetServerInfo RPC under way, which ends within `timeout_s`.

        Raises:
            ClientClosed: The client was closed.
            TlsFailed, Unauthenticated: A file of the credentials cannot be used.
        """
        with self._lock:
            method: grpc.UnaryUnaryMultiCallable[bytes, pb.GetServerInfoResponse] = self._open_channel().unary_unary(
                f"{_SERVICE}/GetServerInfo", response_deserializer=pb.GetServerInfoResponse.FromString
            )
            call: InfoCall = method.future(
                _INFO_REQUEST, timeout=timeout_s, metadata=self._credentials.metadata(self.address)
            )
            return call

    def close(self, error: MseGradError) -> None:
        """Ends stream and channel; requests under way fail with `error`."""
        with self._lock:
            stream, channel = self._stream, self._channel
            self._stream = self._channel = None
        if stream is not None:
            stream.close(error)
        if self._sharing is not None:
            self._sharing.close(error)
        if channel is not None:
            channel.close()

    def _open_channel(self) -> grpc.Channel:
        if self._closed.is_set():
            raise ClientClosed("the client was closed; make another one")
        state = self._credentials.state()
        if self._channel is not None and state != self._credentials_state and not self._has_live_stream:
            self._channel.close()  # it would show the certificate that it was opened with
            self._channel = None
        if self._channel is None:
            self._credentials_state = state
            self._channel = self._credentials.channel(
                self.address,
                self._target,
                [
                    ("grpc.max_receive_message_length", self._options.max_unary_bytes),
                    ("grpc.max_send_message_length", -1),
                    ("grpc.keepalive_time_ms", int(self._options.keepalive_s * 1000)),
                    # Our own retries decide when to try again; gRPC's default would wait up to two minutes.
                    ("grpc.initial_reconnect_backoff_ms", 50),
                    ("grpc.max_reconnect_backoff_ms", 500),
                    ("grpc.use_local_subchannel_pool", 1),
                ],
            )
        return self._channel

    @property
    def _has_live_stream(self) -> bool:
        return self._stream is not None and self._stream.takes_requests

    def _limits(self, stream: Stream, deadline: float | None) -> pb.Limits:
        limits = stream.wait_opened(_time_left_s(deadline))
        if limits is None:
            raise DeadlineExceeded(
                f"{self.address} did not open a stream within the time given", reason=Reason.DEADLINE_EXCEEDED
            )
        return limits

    def _start_on(
        self,
        stream: Stream,
        limits: pb.Limits,
        request: GradientRequest,
        *,
        request_id: str,
        deadline: float | None,
    ) -> Ride:
        exchange = Exchange(
            request,
            request_id=request_id,
            deadline=deadline,
            chunk_elements=self._chunk_elements(limits, request.dtype.itemsize_bytes),
            window_chunks=self._options.window_chunks or limits.window_chunks or _DEFAULT_WINDOW_CHUNKS,
        )
        return StreamRide(stream, exchange)

    def _chunk_elements(self, limits: pb.Limits, itemsize_bytes: int) -> int:
        wanted_bytes = self._options.chunk_bytes or limits.chunk_bytes or _DEFAULT_CHUNK_BYTES
        most_bytes = (limits.max_stream_message_bytes - MESSAGE_RESERVE_BYTES) // 3
        return max(1, min(wanted_bytes, most_bytes) // itemsize_bytes)


def _time_left_s(deadline: float | None) -> float | None:
    return None if deadline is None else max(0.0, deadline - time.monotonic())
