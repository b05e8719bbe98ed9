from __future__ import annotations

import asyncio
import io
import json
import os
import signal
import socket
import urllib.request
from typing import ClassVar

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from mse_grad.reasons import Reason
from mse_grad_server import app, lifecycle
from mse_grad_server.engine import opening
from mse_grad_server.engine.verification import verify
from mse_grad_server.errors import BackendError
from mse_grad_server.process.exits import BackendUnavailable, ExitCode, ListenError
from mse_grad_server.process.log import open_log
from mse_grad_server.settings.model import Settings
from support.client.relay import relay
from support.server.fakes import FakeBackend
from support.server.raw_stream import RawStream, told
from support.server.server_in_loop import serving
from support.waiting import until


async def test_the_log_says_where_it_listens_and_then_that_it_is_ready() -> None:
    async with serving(metrics_listen="127.0.0.1:0") as server:
        (listening,) = server.events("listening")
        (ready,) = server.events("ready")
        assert ready["listen"] == listening["listen"] == str(server.server.address) != "127.0.0.1:0"
        assert ready["metrics_listen"] == str(server.server.metrics_address) != "127.0.0.1:0"
        assert (ready["backend"], ready["device"]) == ("cpu", "fake")
        assert ready["verified_gradients"] == verify(FakeBackend())


async def test_metrics_are_served_while_it_runs() -> None:
    async with serving(metrics_listen="127.0.0.1:0") as server:
        with urllib.request.urlopen(f"http://{server.server.metrics_address}/metrics", timeout=20) as answer:
            assert b"mse_grad_ready 1.0" in answer.read()


async def test_a_port_is_not_shared_with_another_server() -> None:
    async with serving() as first:
        address = str(first.server.address)
        async with serving(open=False, listen=address) as second:
            with pytest.raises(ListenError, match=f"cannot listen on {address}.*--listen"):
                await second.server.open()


async def test_a_taken_port_ends_the_start() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        async with serving(open=False, listen=address) as server:
            with pytest.raises(ListenError, match=address):
                await server.server.open()


async def test_a_backend_that_cannot_open_ends_the_start() -> None:
    class Broken(FakeBackend):
        def open(self) -> None:
            raise BackendError("no device 3")

    async with serving(backend=Broken(), open=False) as server:
        with pytest.raises(BackendUnavailable, match="no device 3"):
            await server.server.open()


async def test_the_backend_is_closed_at_the_end() -> None:
    backend = FakeBackend()
    async with serving(backend=backend):
        assert backend.is_open
    assert not backend.is_open


class WaitingBackend(FakeBackend):
    """Replaces the configured backend; its first gradient waits for `gate`."""

    made: ClassVar[list[WaitingBackend]] = []
    why_numpy = ""

    def __init__(self, kernel: str, *, threads: int) -> None:
        super().__init__()
        self.gate.clear()
        self.made.append(self)


async def signalled_while_it_starts(
    monkeypatch: pytest.MonkeyPatch, stream: io.StringIO
) -> tuple[asyncio.Future[ExitCode], WaitingBackend]:
    """Returns a running server that got SIGTERM while its first gradient waits."""
    WaitingBackend.made.clear()
    monkeypatch.setattr(opening, "CpuBackend", WaitingBackend)
    log = open_log("info", "json", stream=stream)
    running = asyncio.ensure_future(lifecycle.run(Settings(listen="127.0.0.1:0", metrics_listen="none"), log))
    await until(lambda: bool(WaitingBackend.made))
    (backend,) = WaitingBackend.made
    assert await asyncio.to_thread(backend.started.acquire, timeout=20)
    os.kill(os.getpid(), signal.SIGTERM)
    await until(lambda: "SIGTERM" in stream.getvalue())
    return running, backend


async def test_a_signal_while_it_starts_ends_it_with_code_0(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    running, backend = await signalled_while_it_starts(monkeypatch, stream)
    backend.gate.set()
    assert await asyncio.wait_for(running, 20) is ExitCode.OK
    assert '"ready"' not in stream.getvalue()
    assert not backend.is_open


async def running_app() -> tuple[asyncio.Future[ExitCode], str, io.StringIO]:
    """Starts a server and waits until it is ready; returns it, its address and its log."""
    stream = io.StringIO()
    log = open_log("info", "json", stream=stream)
    running = asyncio.ensure_future(lifecycle.run(Settings(listen="127.0.0.1:0", metrics_listen="none"), log))
    await until(lambda: '"ready"' in stream.getvalue())
    return running, json.loads(stream.getvalue().splitlines()[0])["listen"], stream


async def test_a_watch_that_fails_ends_the_server_after_a_drain(monkeypatch: pytest.MonkeyPatch) -> None:
    looked = asyncio.Event()

    async def watch(_: app.Server) -> None:
        await looked.wait()
        raise MemoryError

    monkeypatch.setattr(app.Server, "watch_device", watch)
    running, _, stream = await running_app()
    looked.set()
    with pytest.raises(MemoryError):
        await asyncio.wait_for(running, 20)
    assert '"drained"' in stream.getvalue()


async def test_a_call_right_after_the_drain_is_refused_with_draining(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lifecycle, "_LAST_REFUSALS_S", 20.0)
    running, listen, stream = await running_app()
    async with grpc.aio.insecure_channel(listen) as channel:
        os.kill(os.getpid(), signal.SIGTERM)
        await until(lambda: '"drained"' in stream.getvalue())
        code, reason, _ = await RawStream(channel).receive_failure()
        assert (code, reason) == (grpc.StatusCode.UNAVAILABLE, Reason.DRAINING)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_shutdown_waits_for_a_client_that_has_unread_answers() -> None:
    running, listen, log = await running_app()
    async with relay(listen) as line, grpc.aio.insecure_channel(line.address) as channel:
        stream = RawStream(channel)
        await stream.opened()
        await stream.assert_works(1)
        line.hold()
        os.kill(os.getpid(), signal.SIGTERM)
        await until(lambda: '"stopping"' in log.getvalue())
        await asyncio.wait({running}, timeout=2 * app._FAREWELL_S)
        assert not running.done()
        line.go_on()
        assert (await stream.receive()).go_away is not None
        await stream.receive_end()
        assert await asyncio.wait_for(running, 20) is ExitCode.OK


async def test_health_watchers_see_the_shutdown_and_do_not_delay_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(app, "_DELIVERY_S", 600.0)
    running, listen, _ = await running_app()
    async with grpc.aio.insecure_channel(listen) as channel:
        watching = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        assert (await watching.read()).status == health_pb2.HealthCheckResponse.SERVING
        os.kill(os.getpid(), signal.SIGTERM)
        assert (await watching.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await watching.read()
        assert told(caught.value)[:2] == (grpc.StatusCode.UNAVAILABLE, Reason.DRAINING)
        assert await asyncio.wait_for(running, 20) is ExitCode.OK


async def test_a_hanging_backend_does_not_block_the_shutdown(monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[ExitCode] = []
    monkeypatch.setattr(app, "_LAST_CALL_S", 0.05)
    monkeypatch.setattr(lifecycle, "_end_process", ended.append)
    stream = io.StringIO()
    running, backend = await signalled_while_it_starts(monkeypatch, stream)
    await asyncio.wait_for(running, 20)
    backend.gate.set()
    assert ended == [ExitCode.FAILED]
    assert "backend_hangs" in stream.getvalue()


async def test_streams_beyond_one_share_the_server() -> None:
    async with serving() as server:
        streams = [server.raw_stream() for _ in range(5)]
        for stream in streams:
            await stream.opened()
        for stream in reversed(streams):
            await stream.assert_works(1)
