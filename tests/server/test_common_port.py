from __future__ import annotations

import asyncio
import io
import socket
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import grpc
import pytest

from mse_grad_server.access import Access
from mse_grad_server.address import Address
from mse_grad_server.addresses import HeldPort
from mse_grad_server.clock import LoopClock
from mse_grad_server.common_port import CommonPort
from mse_grad_server.config import Settings
from mse_grad_server.exits import ListenError
from mse_grad_server.health import Health
from mse_grad_server.interceptors import CallInterceptor
from mse_grad_server.listener import Listener
from mse_grad_server.log import open_log
from mse_grad_server.metrics import Metrics
from mse_grad_server.recorder import Recorder
from support.waiting import PATIENCE_S

METHOD = "/test.Echo/Call"
OWN = [("grpc.use_local_subchannel_pool", 1)]  # a connection of its own for each channel


class Echo:
    """Answers with its name, once it may."""

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
    """A port that several may share."""
    with closing(HeldPort(Address.parse("127.0.0.1:0"))) as held:
        held.open()
        yield held.address


def common_port(address: Address, echo: Any, *, drain_timeout_s: float = PATIENCE_S) -> CommonPort:
    log = open_log("info", "json", stream=io.StringIO())
    recorder = Recorder(Metrics(), log, logs_every_request=False)
    access = Access(None, LoopClock(), log, on_refusal=lambda _: None, drain_timeout_s=drain_timeout_s)
    interceptor = CallInterceptor(access, recorder, LoopClock(), name="test", gradient_method="")

    def listener() -> Listener:
        return Listener(address, echo, Health(), interceptor, Settings(), shares_port=True)

    return CommonPort(listener, drain_timeout_s=drain_timeout_s)


def is_listened_on(address: Address) -> bool:
    try:
        socket.create_connection((address.host, address.port), timeout=PATIENCE_S).close()
    except ConnectionRefusedError:
        return False
    return True


async def call(address: Address) -> bytes:
    """Calls over a connection of its own."""
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


async def test_every_connection_goes_to_those_who_are_open(address: Address) -> None:
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


async def test_a_call_that_is_under_way_ends_in_peace(address: Address) -> None:
    echo = Echo(b"one")
    echo.gate.clear()
    port = common_port(address, echo)
    await port.set_open(True)
    answering = asyncio.ensure_future(call(address))
    await asyncio.wait_for(echo.started.wait(), PATIENCE_S)
    await port.set_open(False)
    assert not is_listened_on(address)
    await port.set_open(True)  # it may be open again meanwhile
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


async def test_a_port_that_cannot_be_had_is_an_error_and_may_be_had_later(address: Address) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        elsewhere = common_port(address.with_port(taken.getsockname()[1]), Echo(b"other"))
        with pytest.raises(ListenError, match="cannot listen"):
            await elsewhere.set_open(True)
    await elsewhere.set_open(True)
    await elsewhere.close(0)


async def test_of_several_wishes_the_last_counts(address: Address) -> None:
    port = common_port(address, Echo(b"one"))
    await asyncio.gather(*(port.set_open(is_wanted) for is_wanted in (True, False, True)))
    assert is_listened_on(address)
    await asyncio.gather(*(port.set_open(is_wanted) for is_wanted in (False, True, False)))
    assert not is_listened_on(address)
    await port.close(0)
