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

from mse_grad.reasons import Reason
from mse_grad_server import app
from mse_grad_server.config import Settings
from mse_grad_server.errors import BackendError
from mse_grad_server.exits import BackendUnavailable, ExitCode, ListenError
from mse_grad_server.log import open_log
from mse_grad_server.verification import verify
from support.in_process import FakeBackend, RawStream, serving
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


async def test_a_port_that_something_else_has_ends_the_start() -> None:
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


async def test_the_backend_is_given_back() -> None:
    backend = FakeBackend()
    async with serving(backend=backend):
        assert backend.is_open
    assert not backend.is_open


class WaitingBackend(FakeBackend):
    """Stands in for the backend that the settings name, and holds its first gradient back."""

    made: ClassVar[list[WaitingBackend]] = []
    why_numpy = ""

    def __init__(self, kernel: str, *, threads: int) -> None:
        super().__init__()
        self.gate.clear()
        self.made.append(self)


async def signalled_while_it_starts(
    monkeypatch: pytest.MonkeyPatch, stream: io.StringIO
) -> tuple[asyncio.Future[ExitCode], WaitingBackend]:
    """Returns a running server that got SIGTERM while its backend holds its first gradient back."""
    WaitingBackend.made.clear()
    monkeypatch.setattr(app, "CpuBackend", WaitingBackend)
    log = open_log("info", "json", stream=stream)
    running = asyncio.ensure_future(app.run(Settings(listen="127.0.0.1:0", metrics_listen="none"), log))
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


async def test_who_asks_again_after_the_drain_is_refused_in_our_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "_LAST_REFUSALS_S", 20.0)
    stream = io.StringIO()
    log = open_log("info", "json", stream=stream)
    running = asyncio.ensure_future(app.run(Settings(listen="127.0.0.1:0", metrics_listen="none"), log))
    await until(lambda: '"ready"' in stream.getvalue())
    listen = json.loads(stream.getvalue().splitlines()[0])["listen"]
    async with grpc.aio.insecure_channel(listen) as channel:
        os.kill(os.getpid(), signal.SIGTERM)
        await until(lambda: '"drained"' in stream.getvalue())
        code, reason, _ = await RawStream(channel).receive_failure()
        assert (code, reason) == (grpc.StatusCode.UNAVAILABLE, Reason.DRAINING)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_a_backend_that_hangs_does_not_hold_up_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[ExitCode] = []
    monkeypatch.setattr(app, "_LAST_CALL_S", 0.05)
    monkeypatch.setattr(app, "_end_process", ended.append)
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
