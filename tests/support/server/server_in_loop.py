"""Whole server in the event loop of a test, on a free port, with a fake clock and a fake backend."""

from __future__ import annotations

import asyncio
import io
import json
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
from prometheus_client import generate_latest

from mse_grad_server.app import Server
from mse_grad_server.process.clock import LoopClock
from mse_grad_server.process.log import open_log
from mse_grad_server.settings.model import Settings
from support.server.fakes import FakeBackend, FakeClock
from support.server.raw_stream import SERVICE, RawStream
from support.waiting import PATIENCE_S, until

__all__ = ["Serving", "serving"]


class Serving:
    """A server under test.

    Attributes:
        server: The server.
        settings: Settings of the server.
        backend: Backend of the server.
        clock: Clock of the server.
        channel: Connection to the server, after `connect`.
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
            self.server.address.target,
            options=[("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1)],
        )

    def raw_stream(self, **options: Any) -> RawStream:
        """Returns a stream whose first message is unread."""
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
        """Returns the lines of the log with the given event."""
        lines = [json.loads(line) for line in self._log.getvalue().splitlines()]
        return [line for line in lines if line["event"] == name]

    def metric(self, name: str, **labels: str) -> float:
        """Returns the value of a sample, or 0 without one."""
        return self.server.metrics.registry.get_sample_value(name, labels) or 0.0

    def metrics_text(self) -> str:
        """Returns the whole metrics page."""
        return generate_latest(self.server.metrics.registry).decode()

    async def started(self, count: int = 1) -> None:
        """Waits until the backend has started `count` more gradients in its threads."""
        for _ in range(count):
            assert await asyncio.to_thread(self.backend.started.acquire, timeout=PATIENCE_S)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Waits until `condition` is true."""
        await until(condition)

    def assert_nothing_in_flight(self) -> None:
        """Asserts that the server released everything that it admitted."""
        assert self.metric("mse_grad_in_flight_requests") == 0
        assert self.metric("mse_grad_in_flight_bytes") == 0


@asynccontextmanager
async def serving(
    *, backend: FakeBackend | None = None, clock: Any = None, open: bool = True, **settings: Any
) -> AsyncIterator[Serving]:
    """Runs a server within the `with`; at its end nothing may be in flight.

    Args:
        backend: Backend; None for a `FakeBackend`.
        clock: Clock; None for a `FakeClock`.
        open: Whether the server is opened, and so verified and ready, before the body.
        settings: Settings that differ from the defaults.
    """
    backend = backend or FakeBackend()
    clock = clock or FakeClock()
    log = io.StringIO()
    own = {"listen": "127.0.0.1:0", "direct_listen": "none", "metrics_listen": "none", "log_level": "debug"}
    values = {**own, **settings}
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
