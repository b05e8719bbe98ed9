"""The connection to one server: its channel, and the stream that requests ride."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count

import grpc

from mse_grad.frame import TensorFrame, UnaryRequest, decode_unary_response, encode_unary_request
from mse_grad.reasons import Reason
from mse_grad.v1 import mse_grad_pb2 as pb
from mse_grad_client.address import grpc_target
from mse_grad_client.errors import (
    ClientClosed,
    DeadlineExceeded,
    InternalError,
    MseGradError,
    Unavailable,
    from_rpc_error,
)
from mse_grad_client.exchange import Exchange
from mse_grad_client.options import ClientOptions
from mse_grad_client.request import GradientRequest
from mse_grad_client.stream import MESSAGE_RESERVE_BYTES, Stream

__all__ = ["Transport"]

_SERVICE = "/mse_grad.v1.MseGradService"
_DEFAULT_CHUNK_BYTES = 512 * 1024
_DEFAULT_WINDOW_CHUNKS = 4


class Transport:
    """Opens channel and stream when they are first needed, and again after either ended. Any number of threads."""

    def __init__(self, address: str, options: ClientOptions) -> None:
        self.address = address
        self.closed = threading.Event()
        self._target = grpc_target(address)
        self._options = options
        self._lock = threading.Lock()
        self._channel: grpc.Channel | None = None
        self._stream: Stream | None = None
        self._changed = threading.Condition(self._lock)
        self._active = 0
        self._paused = False
        self._client_token = secrets.token_hex(4)
        self._request_numbers = count(1)

    def run(self, request: GradientRequest, *, deadline: float | None) -> None:
        """Fills the gradient of `request` over the stream; raises MseGradError."""
        with self._under_way():
            stream, is_new = self._live_stream()
            try:
                self._run_on(stream, request, deadline)
            except Unavailable:
                if is_new or stream.takes_requests:
                    raise
                # It had ended, perhaps long ago, unnoticed while nobody waited for an answer.
                stream, _ = self._live_stream()
                self._run_on(stream, request, deadline)

    def run_unary(self, request: GradientRequest, *, deadline: float | None) -> None:
        """Fills the gradient of `request` with one ComputeGradient RPC; raises MseGradError."""
        dtype, shape = request.dtype.wire, request.shape
        message = encode_unary_request(
            UnaryRequest(
                TensorFrame(dtype, shape, request.predict),
                TensorFrame(dtype, shape, request.label),
                TensorFrame(dtype, request.dout_shape, request.dout),
                int(request.reduction),
                request.numel,
            )
        )
        y = decode_unary_response(self._call_unary("ComputeGradient", message, deadline=deadline)).y
        if (y.dtype, y.shape, len(y.data)) != (dtype, shape, len(request.y)):
            raise InternalError(
                f"the server answered dtype {y.dtype}, shape {list(y.shape)} and {len(y.data)} bytes; "
                f"expected dtype {dtype}, shape {list(shape)} and {len(request.y)} bytes"
            )
        request.fill(0, y.data)

    def server_info(self, *, deadline: float | None) -> pb.GetServerInfoResponse:
        """Returns the answer of GetServerInfo; raises MseGradError."""
        message = pb.GetServerInfoRequest().SerializeToString()
        answer = self._call_unary("GetServerInfo", message, deadline=deadline)
        return pb.GetServerInfoResponse.FromString(answer)

    def close(self) -> None:
        """Ends stream and channel for good; requests under way fail with ClientClosed."""
        self.closed.set()
        self._disconnect(ClientClosed("the client was closed"))

    def pause(self, timeout_s: float) -> None:
        """Holds new requests back, waits until none is under way, and disconnects; `resume` lets them through.

        What is still under way after `timeout_s` fails with Unavailable, and its retry waits for `resume`.
        """
        with self._lock:
            self._paused = True
            self._changed.wait_for(lambda: self._active == 0, timeout_s)
        self._disconnect(Unavailable("the process forks", reason=Reason.CONNECTION_LOST))

    def resume(self) -> None:
        """Lets requests through again after `pause`."""
        with self._lock:
            self._paused = False
            self._changed.notify_all()

    def reset_after_fork(self) -> None:
        """Makes a child process start afresh: the parent's threads and requests are not its own."""
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._active = 0
        self._paused = False
        self._channel = self._stream = None
        self._client_token = secrets.token_hex(4)

    @contextmanager
    def _under_way(self) -> Iterator[None]:
        with self._lock:
            while self._paused:
                self._changed.wait()
            self._active += 1
        try:
            yield
        finally:
            with self._lock:
                self._active -= 1
                if self._paused:
                    self._changed.notify_all()

    def _live_stream(self) -> tuple[Stream, bool]:
        """Returns a stream that takes requests, as far as is known, and whether it was opened just now."""
        with self._lock:
            stream = self._stream
            if stream is not None and stream.takes_requests:
                return stream, False
            self._stream = Stream(self._open_channel(), address=self.address)
            return self._stream, True

    def _run_on(self, stream: Stream, request: GradientRequest, deadline: float | None) -> None:
        limits = stream.wait_opened(_time_left_s(deadline))
        if limits is None:
            raise DeadlineExceeded(
                f"{self.address} did not open a stream within the time given", reason=Reason.DEADLINE_EXCEEDED
            )
        exchange = Exchange(
            request,
            request_id=self._next_request_id(),
            deadline=deadline,
            chunk_elements=self._chunk_elements(limits, request.dtype.itemsize_bytes),
            window_chunks=self._options.window_chunks or limits.window_chunks or _DEFAULT_WINDOW_CHUNKS,
        )
        stream.finish(stream.start(exchange), exchange)

    def _open_channel(self) -> grpc.Channel:
        if self.closed.is_set():
            raise ClientClosed("the client was closed; make another one")
        if self._channel is None:
            self._channel = grpc.insecure_channel(
                self._target,
                options=[
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

    def _call_unary(self, method: str, message: bytes, *, deadline: float | None) -> bytes:
        with self._under_way():
            with self._lock:
                channel = self._open_channel()
            call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(f"{_SERVICE}/{method}")
            metadata = (("x-request-id", self._next_request_id()),)
            try:
                return call(message, timeout=_time_left_s(deadline), metadata=metadata)
            except grpc.RpcError as error:
                if self.closed.is_set():
                    raise ClientClosed("the client was closed") from error
                raise from_rpc_error(error, address=self.address) from error
            except ValueError as error:  # gRPC's word for a channel that was closed meanwhile
                raise Unavailable("the connection was closed", reason=Reason.CONNECTION_LOST) from error

    def _chunk_elements(self, limits: pb.Limits, itemsize_bytes: int) -> int:
        wanted_bytes = self._options.chunk_bytes or limits.chunk_bytes or _DEFAULT_CHUNK_BYTES
        most_bytes = (limits.max_stream_message_bytes - MESSAGE_RESERVE_BYTES) // 3
        return max(1, min(wanted_bytes, most_bytes) // itemsize_bytes)

    def _next_request_id(self) -> str:
        return f"{self._client_token}-{next(self._request_numbers)}"

    def _disconnect(self, error: MseGradError) -> None:
        with self._lock:
            stream, channel = self._stream, self._channel
            self._stream = self._channel = None
        if stream is not None:
            stream.close(error)
        if channel is not None:
            channel.close()


def _time_left_s(deadline: float | None) -> float | None:
    return None if deadline is None else max(0.0, deadline - time.monotonic())
