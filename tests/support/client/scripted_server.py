"""A server whose streams follow a script, to show at will what a real server shows only by chance."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import grpc
import numpy as np
from google.rpc import error_details_pb2, status_pb2

from mse_grad.codec import Chunk, Header, StreamRequest, decode_stream_request
from mse_grad.formula import coefficient, gradient_into
from mse_grad.reasons import ERROR_DOMAIN, Reason
from mse_grad.tensor import Reduction, dtype_of_wire, elements
from mse_grad.v1 import mse_grad_pb2 as pb
from support.ports import held_port

__all__ = [
    "LIMITS",
    "Script",
    "ScriptedServer",
    "answer",
    "answer_all",
    "break_off",
    "go_away",
    "gone_away",
    "opened",
    "refuse_all",
    "refused",
    "status_of",
]

Script = Callable[[Iterator[StreamRequest]], Iterator[bytes]]

LIMITS = pb.Limits(
    max_unary_bytes=1 << 20,
    max_stream_message_bytes=16 << 20,
    window_chunks=4,
    chunk_bytes=512 << 10,
    max_open_requests=64,
    max_in_flight_bytes=1 << 30,
)


class ScriptedServer:
    """Serves StreamGradients by scripts: the n-th stream follows the n-th script, further ones the last.

    Attributes:
        address: "host:port" within the `with`; the same after a restart, and nobody else's in between.
        streams: How many streams were opened.
        requests: Every message that any stream received, decoded.
        info: The answer to GetServerInfo; None if the server does not know the method.
    """

    def __init__(
        self,
        *scripts: Script,
        limits: pb.Limits = LIMITS,
        offer: pb.SharedMemoryOffer | None = None,
        direct: pb.DirectOffer | None = None,
    ) -> None:
        self._scripts = scripts or (answer_all,)
        self._limits = limits
        self._offer = offer
        self._direct = direct
        self._lock = threading.Lock()
        self.streams = 0
        self.requests: list[StreamRequest] = []
        self.info: Callable[[], pb.GetServerInfoResponse] | None = None
        self.address = ""
        self._port = ExitStack()

    def start(self) -> None:
        self._server = grpc.server(ThreadPoolExecutor(16), options=[("grpc.so_reuseport", 0)])
        self._server.add_generic_rpc_handlers(
            (
                grpc.method_handlers_generic_handler(
                    "mse_grad.v1.MseGradService",
                    {
                        "StreamGradients": grpc.stream_stream_rpc_method_handler(self._stream),
                        "GetServerInfo": grpc.unary_unary_rpc_method_handler(self._tell),
                    },
                ),
            )
        )
        self._server.add_insecure_port(self.address)
        self._server.start()

    def stop(self) -> None:
        self._server.stop(None).wait()

    def __enter__(self) -> ScriptedServer:
        self.address = f"127.0.0.1:{self._port.enter_context(held_port())}"
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._port.close()

    def _stream(self, messages: Iterator[bytes], _: grpc.ServicerContext) -> Iterator[bytes]:
        with self._lock:
            script = self._scripts[min(self.streams, len(self._scripts) - 1)]
            self.streams += 1
        yield opened(self._limits, self._offer, self._direct)
        yield from script(self._record(messages))

    def _tell(self, _: bytes, context: grpc.ServicerContext) -> bytes:
        if self.info is None:
            context.abort(grpc.StatusCode.UNIMPLEMENTED, "this server does not describe itself")
        return self.info().SerializeToString()

    def _record(self, messages: Iterator[bytes]) -> Iterator[StreamRequest]:
        for message in messages:
            request = decode_stream_request(message)
            self.requests.append(request)
            yield request


def opened(
    limits: pb.Limits = LIMITS, offer: pb.SharedMemoryOffer | None = None, direct: pb.DirectOffer | None = None
) -> bytes:
    """Returns the first message of a stream."""
    first = pb.StreamOpened(instance_id="scripted", limits=limits, shared_memory=offer, direct=direct)
    return pb.StreamGradientsResponse(opened=first).SerializeToString()


def answer_all(requests: Iterator[StreamRequest]) -> Iterator[bytes]:
    """Answers every request, each message with one message."""
    headers: dict[int, Header] = {}
    for request in requests:
        yield answer(headers, request)


def answer(headers: dict[int, Header], request: StreamRequest) -> bytes:
    """Returns the answer to one message; `headers` keeps the open requests from one message to the next."""
    results = []
    for header in request.headers:
        headers[header.id] = header
        if 0 in header.shape:
            results.append(pb.GradientResult(id=header.id))
    results += [_result(headers[chunk.id], chunk) for chunk in request.chunks]
    return pb.StreamGradientsResponse(results=results).SerializeToString()


def refused(id: int, reason: Reason, message: str = "no", *, retry_delay_ms: int = 0) -> bytes:
    """Returns the message that ends request `id` with an error."""
    error = pb.GradientError(id=id, status=status_of(reason, message, retry_delay_ms=retry_delay_ms))
    return pb.StreamGradientsResponse(errors=[error]).SerializeToString()


def gone_away(last_id: int) -> bytes:
    """Returns the message that ends the stream after request `last_id`."""
    return pb.StreamGradientsResponse(
        go_away=pb.GoAway(last_id=last_id, status=status_of(Reason.DRAINING, "draining"))
    ).SerializeToString()


def status_of(reason: Reason, message: str, *, retry_delay_ms: int = 0) -> status_pb2.Status:
    """Returns the status that a server sends for `reason`."""
    status = status_pb2.Status(code=reason.code.value[0], message=message)
    status.details.add().Pack(error_details_pb2.ErrorInfo(reason=reason.value, domain=ERROR_DOMAIN))
    if retry_delay_ms:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromMilliseconds(retry_delay_ms)
        status.details.add().Pack(retry)
    return status


def _result(header: Header, chunk: Chunk) -> pb.GradientResult:
    dtype = dtype_of_wire(header.dtype, field="dtype")
    predict = elements(chunk.predict, dtype)
    y = np.empty(predict.shape, dtype.numpy)
    count = int(np.prod(header.shape, dtype=np.int64))
    c = coefficient(Reduction.of_wire(header.reduction), header.numel or count, dtype)
    dout = chunk.dout if header.scalar_dout is None else header.scalar_dout
    gradient_into(y, predict, elements(chunk.label, dtype), elements(dout, dtype), c=c, dtype=dtype)
    return pb.GradientResult(id=header.id, offset=chunk.offset, y=y.tobytes())


def break_off(requests: Iterator[StreamRequest]) -> Iterator[bytes]:
    """Ends the stream after its first message."""
    next(requests)
    return iter(())


def refuse_all(requests: Iterator[StreamRequest]) -> Iterator[bytes]:
    """Refuses every request, as a server whose device is repaired."""
    for request in requests:
        for header in request.headers:
            yield refused(header.id, Reason.DEVICE_UNAVAILABLE, "the device is repaired", retry_delay_ms=600_000)


def go_away(requests: Iterator[StreamRequest]) -> Iterator[bytes]:
    """Accepts no request, and ends the stream when the client closes its side."""
    next(requests)
    yield gone_away(0)
    next(requests, None)
