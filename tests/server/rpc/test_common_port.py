from __future__ import annotations

import asyncio
import io
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import grpc
import pytest

from mse_grad_server.engine.shares import Shares
from mse_grad_server.metrics.recorder import Recorder
from mse_grad_server.metrics.registry import Metrics
from mse_grad_server.process.clock import LoopClock
from mse_grad_server.process.exits import ListenError
from mse_grad_server.process.log import open_log
from mse_grad_server.rpc.admission.authentication import Authenticator
from mse_grad_server.rpc.admission.interceptor import CallInterceptor, CallLimits
from mse_grad_server.rpc.common_port import CommonPort, ListeningSockets
from mse_grad_server.rpc.health import Health
from mse_grad_server.rpc.listener import Listener, ListenerOptions
from mse_grad_server.settings.address import Address
from mse_grad_server.settings.listen_addresses import HeldPort
from mse_grad_server.settings.model import Settings
from support.waiting import PATIENCE_S, until

METHOD = "/test.Echo/Call"
OWN = [("grpc.use_local_subchannel_pool", 1)]  # a separate connection for each channel


class Echo:
    """Service that answers with its name after its gate opens."""

    def __init__(self, name: bytes) -> None:
        self.name = name
        self.gate = asyncio.Event()
        self.gate.set()
        self.started = asyncio.Event()

    def handler(self) -> Any:
        return grpc.method_handlers_generic_handler(
            "test.Echo", {"Call": grpc.unary_unary_rpc_method_handler(self.call)}
        )

    async def call(self, _: bytes, __: Any) -> bytes:
        self.started.set()
        await self.gate.wait()
        return self.name


@pytest.fixture
def address() -> Iterator[Address]:
    """A port that several servers may share."""
    with closing(HeldPort(Address.parse("127.0.0.1:0"))) as held:
        held.open()
        yield held.address


def common_port(address: Address, echo: Any, *, drain_timeout_s: float = PATIENCE_S) -> CommonPort:
    log = open_log("info", "json", stream=io.StringIO())
    recorder = Recorder(Metrics(), log, logs_every_request=False)
    access = Authenticator(None, {}, LoopClock(), log, on_refusal=lambda _: None, drain_timeout_s=drain_timeout_s)
    interceptor = CallInterceptor(
        access,
        recorder,
        LoopClock(),
        CallLimits.of(Settings()),
        name="test",
        gradient_methods=set(),
        stream_methods=set(),
        shares=Shares(),
    )

    def listener() -> Listener:
        return Listener(address, [echo], Health(), interceptor, options=ListenerOptions(2**20), shares_port=True)

    return CommonPort(listener, drain_timeout_s=drain_timeout_s)


def is_listened_on(address: Address) -> bool:
    try:
        socket.create_connection((address.host, address.port), timeout=PATIENCE_S).close()
    except ConnectionRefusedError:
        return False
    return True


async def call(address: Address) -> bytes:
    """Calls over a new connection to `address`."""
    async with grpc.aio.insecure_channel(str(address), options=OWN) as channel:
        method: Any = channel.unary_unary(METHOD)
        answer: bytes = await method(b"", timeout=PATIENCE_S)
        return answer


async def test_nothing_listens_once_it_has_closed(address: Address) -> None:
    port = common_port(address, Echo(b"one"))
    assert not is_listened_on(address)
    for _ in range(20):
        await port.set_open(True)
        assert is_listened_on(address)
        await port.set_open(False)
        assert not is_listened_on(address)
    await port.close(0)


async def test_connections_reach_only_workers_whose_port_is_open(address: Address) -> None:
    one, other = common_port(address, Echo(b"one")), common_port(address, Echo(b"other"))
    await one.set_open(True)
    await other.set_open(True)
    answers = {await call(address) for _ in range(40)}
    assert answers == {b"one", b"other"}
    await one.set_open(False)
    assert {await call(address) for _ in range(40)} == {b"other"}
    await one.set_open(True)
    await other.set_open(False)
    assert {await call(address) for _ in range(40)} == {b"one"}
    await one.close(0)
    await other.close(0)


async def test_a_call_under_way_finishes_after_the_port_has_closed(address: Address) -> None:
    echo = Echo(b"one")
    echo.gate.clear()
    port = common_port(address, echo)
    await port.set_open(True)
    answering = asyncio.ensure_future(call(address))
    await asyncio.wait_for(echo.started.wait(), PATIENCE_S)
    await port.set_open(False)
    assert not is_listened_on(address)
    await port.set_open(True)  # the port may be open again meanwhile
    echo.gate.set()
    assert await answering == b"one"
    await port.close(0)


async def test_a_call_that_does_not_end_is_cancelled_at_the_end(address: Address) -> None:
    echo = Echo(b"one")
    echo.gate.clear()
    port = common_port(address, echo, drain_timeout_s=3600)
    await port.set_open(True)
    answering = asyncio.ensure_future(call(address))
    await asyncio.wait_for(echo.started.wait(), PATIENCE_S)
    await port.set_open(False)
    await asyncio.wait_for(port.close(0), PATIENCE_S)
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await answering
    assert failure.value.code() in (grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAVAILABLE)


async def test_a_port_that_is_taken_is_an_error_and_may_be_opened_later(address: Address) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        elsewhere = common_port(address.with_port(taken.getsockname()[1]), Echo(b"other"))
        with pytest.raises(ListenError, match="cannot listen"):
            await elsewhere.set_open(True)
    await elsewhere.set_open(True)
    await elsewhere.close(0)


async def test_the_last_of_several_overlapping_calls_decides(address: Address) -> None:
    port = common_port(address, Echo(b"one"))
    await asyncio.gather(*(port.set_open(is_wanted) for is_wanted in (True, False, True)))
    assert is_listened_on(address)
    await asyncio.gather(*(port.set_open(is_wanted) for is_wanted in (False, True, False)))
    assert not is_listened_on(address)
    await port.close(0)


def listening_socket() -> socket.socket:
    return socket.create_server(("127.0.0.1", 0))


async def test_closed_waits_until_the_socket_is_closed() -> None:
    one = listening_socket()
    sockets = ListeningSockets.on(one.getsockname()[1])
    assert not await sockets.closed(0)
    threading.Timer(0.01, one.close).start()
    assert await sockets.closed(PATIENCE_S)


async def test_a_descriptor_that_was_reused_for_a_file_counts_as_closed(tmp_path: Path) -> None:
    one = listening_socket()
    sockets = ListeningSockets.on(one.getsockname()[1])
    with open(tmp_path / "file", "w") as other:
        os.dup2(other.fileno(), one.fileno())
        assert await sockets.closed(0)
        one.close()


async def test_sockets_of_other_ports_and_connections_are_left_out() -> None:
    with (
        listening_socket() as one,
        socket.create_connection(one.getsockname()) as connected,
        listening_socket() as other,
    ):
        accepted, _ = one.accept()  # a connection on the same port, which does not listen
        sockets = ListeningSockets.on(one.getsockname()[1])
        one.close()
        assert await asyncio.wait_for(sockets.closed(0), PATIENCE_S)
        assert not await ListeningSockets.on(other.getsockname()[1]).closed(0)
        assert connected.fileno() != -1
        accepted.close()


async def test_the_search_for_sockets_closes_none_and_opens_none() -> None:
    with listening_socket() as one:

        def changes_none() -> bool:
            before = set(os.listdir("/dev/fd"))
            for _ in range(10):
                ListeningSockets.on(one.getsockname()[1])
            return set(os.listdir("/dev/fd")) == before

        await until(changes_none)  # the servers of earlier tests may still close some
        socket.create_connection(one.getsockname()).close()
