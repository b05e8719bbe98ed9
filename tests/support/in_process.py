"""The whole server in the event loop of a test, on a free port, with time and computing in the test's hands."""

from __future__ import annotations

import asyncio
import heapq
import io
import itertools
import json
import math
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2, status_pb2
from prometheus_client import generate_latest

from mse_grad import formula
from mse_grad.frame import Chunk, Header, StreamResponse, decode_stream_response, encode_stream_request
from mse_grad.reasons import ERROR_DOMAIN, Reason
from mse_grad.tensor import DTYPES, FLOAT32, Array, DType, Reduction
from mse_grad_server.app import Server
from mse_grad_server.backends.base import GradientSpec, OneByOne
from mse_grad_server.clock import LoopClock
from mse_grad_server.config import Settings
from mse_grad_server.log import open_log
from support.waiting import PATIENCE_S, until

__all__ = [
    "FakeBackend",
    "FakeClock",
    "RawStream",
    "Serving",
    "chunk",
    "detail",
    "error_info",
    "gradient",
    "header",
    "operands",
    "pairs",
    "reason_of",
    "rich_status",
    "serving",
    "told",
    "trailing",
]

SERVICE = "/mse_grad.v1.MseGradService"


class FakeBackend(OneByOne):
    """Computes by the formula; may be held up, made to fail or made to lie."""

    name = "cpu"
    device = "fake"
    kernel_hash = "00"
    inline_bytes = 2**30
    threads = 1
    part_bytes = 2**30

    def __init__(self, dtypes: tuple[DType, ...] = DTYPES) -> None:
        self.dtypes = dtypes
        self.gate = threading.Event()
        self.gate.set()
        self.started = threading.Semaphore(0)
        self.error: BaseException | None = None
        self.fails_on: Callable[[Array], bool] = lambda predict: True
        self.computed_sizes: list[int] = []
        self.is_open = False

    def open(self) -> None:
        self.is_open = True

    def compute(
        self, spec: GradientSpec, predict: Array, label: Array, dout: Array, y: Array, *, deadline_s: float = math.inf
    ) -> None:
        self.started.release()
        assert self.gate.wait(PATIENCE_S)
        if self.error is not None and self.fails_on(predict):
            raise self.error
        c = formula.coefficient(spec.reduction, spec.numel, spec.dtype)
        formula.gradient_into(y, predict, label, dout, c=c, dtype=spec.dtype)
        self.computed_sizes.append(predict.size)

    def close(self) -> None:
        self.is_open = False


class FakeClock:
    """Time that passes when the test says so."""

    def __init__(self) -> None:
        self._now_s = 1000.0
        self._numbers = itertools.count()
        self._timers: list[tuple[float, int, _Timer]] = []

    def now(self) -> float:
        return self._now_s

    def call_at(self, when_s: float, callback: Callable[[], None]) -> _Timer:
        timer = _Timer(callback)
        heapq.heappush(self._timers, (when_s, next(self._numbers), timer))
        return timer

    def advance(self, seconds: float) -> None:
        """Lets time pass, calling what is due at its very moment; in the event loop."""
        end_s = self._now_s + seconds
        while self._timers and self._timers[0][0] <= end_s:
            when_s, _, timer = heapq.heappop(self._timers)
            self._now_s = max(self._now_s, when_s)
            if timer.callback is not None:
                timer.callback()
        self._now_s = end_s

    def oversleep(self, seconds: float) -> None:
        """Lets time pass while nothing runs, as in a process that is stopped: what was due is called once, and late."""
        self._now_s += seconds
        self.advance(0)

    @property
    def pending(self) -> int:
        """How many calls are to come."""
        return sum(timer.callback is not None for _, _, timer in self._timers)


class _Timer:
    def __init__(self, callback: Callable[[], None]) -> None:
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        self.callback = None


class RawStream:
    """A StreamGradients RPC, message by message."""

    def __init__(self, channel: Any, **options: Any) -> None:
        self.call: Any = channel.stream_stream(f"{SERVICE}/StreamGradients")(**options)

    async def opened(self) -> StreamResponse:
        """Returns the first message, which says what the server accepts."""
        response = await self.receive()
        assert response.opened is not None
        return response

    async def send(
        self, headers: Sequence[Header] = (), chunks: Sequence[Chunk] = (), cancel_ids: Sequence[int] = ()
    ) -> None:
        await self.send_bytes(encode_stream_request(headers, chunks, cancel_ids))

    async def send_bytes(self, message: bytes) -> None:
        await asyncio.wait_for(self.call.write(message), PATIENCE_S)

    async def receive(self) -> StreamResponse:
        """Returns the next message; raises grpc.aio.AioRpcError where the RPC failed."""
        message = await asyncio.wait_for(self.call.read(), PATIENCE_S)
        assert isinstance(message, bytes), "the server ended the stream"
        return decode_stream_response(message)

    async def receive_end(self) -> None:
        """Waits for the end of the RPC, before which no message may be left; raises AioRpcError unless it is OK."""
        message = await asyncio.wait_for(self.call.read(), PATIENCE_S)
        assert not isinstance(message, bytes), decode_stream_response(message)
        assert await asyncio.wait_for(self.call.code(), PATIENCE_S) is grpc.StatusCode.OK

    async def receive_failure(self) -> tuple[grpc.StatusCode, Reason, str]:
        """Returns code, reason and message of the RPC, which must fail before another message."""
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await self.receive_end()
        return told(failure.value)

    async def receive_error(self) -> tuple[int, grpc.StatusCode, Reason, str]:
        """Returns id, code, reason and message of the one error in the next message."""
        response = await self.receive()
        assert not response.results, response
        (error,) = response.errors
        reason = reason_of(error.status)
        return error.id, reason.code, reason, error.status.message

    async def receive_gradient(self, id: int, count: int, dtype: DType = FLOAT32) -> Array:
        """Returns the gradient of request `id`, put together from ascending ranges."""
        parts: list[Array] = []
        received = 0
        while received < count:
            response = await self.receive()
            assert not response.errors, response.errors
            for result in response.results:
                assert (result.id, result.offset) == (id, received)
                parts.append(np.frombuffer(result.y, dtype.numpy))
                received += parts[-1].size
        return np.concatenate(parts) if parts else np.empty(0, dtype.numpy)

    async def assert_works(self, id: int) -> None:
        """Shows that the stream still answers: a small request with a new id."""
        await self.send([header(id, (3,))], [chunk(id, 0, [4.0, 5.0, 6.0])])
        y = await self.receive_gradient(id, 3)
        assert y.tolist() == gradient([4.0, 5.0, 6.0]).tolist()

    async def close(self) -> None:
        """Closes our side and waits for the end; raises AioRpcError unless it is OK."""
        await self.call.done_writing()
        await self.receive_end()


class Serving:
    """A server under test.

    Attributes:
        server: The server.
        settings: What it was told.
        backend: What computes.
        clock: Its time.
        channel: A connection to it, once it listens.
    """

    def __init__(self, server: Server, settings: Settings, backend: FakeBackend, clock: Any, log: io.StringIO) -> None:
        self.server = server
        self.settings = settings
        self.backend = backend
        self.clock = clock
        self._log = log
        self.channel: Any = None
        self._streams: list[RawStream] = []

    def connect(self) -> None:
        """Makes the connection; the server must listen."""
        self.channel = grpc.aio.insecure_channel(
            str(self.server.address),
            options=[("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1)],
        )

    def raw_stream(self, **options: Any) -> RawStream:
        """Returns a stream whose first message was not read."""
        stream = RawStream(self.channel, **options)
        self._streams.append(stream)
        return stream

    async def stream(self, **options: Any) -> RawStream:
        """Returns an opened stream."""
        stream = self.raw_stream(**options)
        await stream.opened()
        return stream

    async def disconnect(self) -> None:
        """Cancels every stream and closes the connection."""
        for stream in self._streams:
            stream.call.cancel()
        if self.channel is not None:
            await self.channel.close()

    async def call(self, method: str, message: bytes, **options: Any) -> bytes:
        """Returns the answer of a unary RPC."""
        answer: bytes = await self.channel.unary_unary(f"{SERVICE}/{method}")(message, timeout=PATIENCE_S, **options)
        return answer

    def events(self, name: str) -> list[dict[str, Any]]:
        """Returns the lines of the log with this event."""
        lines = [json.loads(line) for line in self._log.getvalue().splitlines()]
        return [line for line in lines if line["event"] == name]

    def metric(self, name: str, **labels: str) -> float:
        """Returns the value of a sample, 0 where there is none."""
        return self.server.metrics.registry.get_sample_value(name, labels) or 0.0

    def metrics_text(self) -> str:
        """Returns everything that a scrape would."""
        return generate_latest(self.server.metrics.registry).decode()

    async def started(self, count: int = 1) -> None:
        """Waits until the backend began `count` more gradients in its threads."""
        for _ in range(count):
            assert await asyncio.to_thread(self.backend.started.acquire, timeout=PATIENCE_S)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Waits until `condition` holds."""
        await until(condition)

    def assert_nothing_in_flight(self) -> None:
        """Shows that all that was admitted was released."""
        assert self.metric("mse_grad_in_flight_requests") == 0
        assert self.metric("mse_grad_in_flight_bytes") == 0


@asynccontextmanager
async def serving(
    *, backend: FakeBackend | None = None, clock: Any = None, open: bool = True, **settings: Any
) -> AsyncIterator[Serving]:
    """Runs a server for the body; at its end nothing may be in flight.

    Args:
        backend: What computes.
        clock: None for real time.
        open: Whether it is opened, and so verified and ready, before the body.
        settings: Other than the defaults.
    """
    backend = backend or FakeBackend()
    clock = clock or FakeClock()
    log = io.StringIO()
    values = {"listen": "127.0.0.1:0", "metrics_listen": "none", "log_level": "debug", **settings}
    effective = Settings(**values)
    server = Server(effective, open_log(effective.log_level, "json", stream=log), backend=backend, clock=clock)
    serving = Serving(server, effective, backend, clock, log)
    if open:
        await server.open()
        backend.computed_sizes.clear()
        backend.started = threading.Semaphore(0)
        serving.connect()
    try:
        yield serving
    finally:
        backend.gate.set()
        await serving.disconnect()
        await server.drain()
        await server.close()
    serving.assert_nothing_in_flight()
    assert isinstance(clock, LoopClock) or clock.pending == 0, "a timer outlived the server"


def header(id: int, shape: tuple[int, ...], **fields: Any) -> Header:
    """Returns a header of float32 and mean."""
    return Header(**{"id": id, "dtype": FLOAT32.wire, "shape": shape, "reduction": Reduction.MEAN, **fields})


def chunk(
    id: int, offset: int, values: Sequence[float] | Array, *, dtype: DType = FLOAT32, scalar_dout: bool = False
) -> Chunk:
    """Returns a chunk with `values` for predict, of which label and dout follow."""
    predict, label, dout = operands(values, dtype)
    return Chunk(id, offset, predict.tobytes(), label.tobytes(), b"" if scalar_dout else dout.tobytes())


def operands(values: Sequence[float] | Array, dtype: DType = FLOAT32) -> tuple[Array, Array, Array]:
    """Returns predict, label and dout for `values`."""
    predict = np.asarray(values, dtype.numpy)
    return predict, (predict * 0.5).astype(dtype.numpy), (predict + 1).astype(dtype.numpy)


def gradient(
    values: Sequence[float] | Array,
    *,
    reduction: Reduction = Reduction.MEAN,
    numel: int | None = None,
    dtype: DType = FLOAT32,
) -> Array:
    """Returns the gradient of the request that `header` and `chunk` make of `values`."""
    predict, label, dout = operands(values, dtype)
    y = np.empty_like(predict)
    c = formula.coefficient(reduction, numel or predict.size, dtype)
    formula.gradient_into(y, predict, label, dout, c=c, dtype=dtype)
    return y


def error_info(status: status_pb2.Status) -> error_details_pb2.ErrorInfo:
    """Returns the ErrorInfo of `status`."""
    info: error_details_pb2.ErrorInfo = detail(status, error_details_pb2.ErrorInfo)
    assert info.domain == ERROR_DOMAIN
    return info


def detail(status: status_pb2.Status, kind: type[Any]) -> Any:
    """Returns the detail of this kind, or None."""
    for packed in status.details:
        message = kind()
        if packed.Unpack(message):
            return message
    return None


def reason_of(status: status_pb2.Status) -> Reason:
    """Returns the reason in `status`, whose code must be that of the reason."""
    (reason,) = (reason for reason in Reason if reason.value == error_info(status).reason)
    assert status.code == reason.code.value[0]
    return reason


def told(error: grpc.aio.AioRpcError) -> tuple[grpc.StatusCode, Reason, str]:
    """Returns code, reason and message of a failed RPC, whose rich status must say the same as its plain one."""
    status = rich_status(error)
    assert (status.code, status.message) == (error.code().value[0], error.details())
    return error.code(), reason_of(status), status.message


def rich_status(error: grpc.aio.AioRpcError) -> status_pb2.Status:
    """Returns the google.rpc.Status that came with a failed RPC."""
    return status_pb2.Status.FromString(trailing(error)["grpc-status-details-bin"])


def trailing(error: grpc.aio.AioRpcError) -> dict[str, Any]:
    """Returns the trailing metadata of a failed RPC."""
    return pairs(error.trailing_metadata())


def pairs(metadata: Any) -> dict[str, Any]:
    """Returns metadata of grpc.aio, which not in every version is a mapping, as a dictionary."""
    return {key: value for key, value in metadata or ()}  # noqa: C416
