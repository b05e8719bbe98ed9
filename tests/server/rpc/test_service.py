from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest

from mse_grad.methods import COMPUTE_GRADIENT, GET_SERVER_INFO, SERVICE, STREAM_GRADIENTS, full_name
from mse_grad.reasons import Reason
from mse_grad.tensor import FLOAT16, FLOAT32
from mse_grad.v1 import mse_grad_pb2 as pb
from support.server.fakes import FakeBackend
from support.server.raw_stream import chunk, header, told
from support.server.server_in_loop import serving
from support.waiting import PATIENCE_S


def test_every_method_of_the_proto_has_a_handler() -> None:
    methods = {method.name for method in pb.DESCRIPTOR.services_by_name["MseGradService"].methods}
    assert methods == {COMPUTE_GRADIENT, STREAM_GRADIENTS, GET_SERVER_INFO}
    assert SERVICE == "mse_grad.v1.MseGradService"
    assert full_name(STREAM_GRADIENTS) == "/mse_grad.v1.MseGradService/StreamGradients"


async def test_server_info_describes_the_server() -> None:
    async with serving(backend=FakeBackend((FLOAT32, FLOAT16))) as server:
        info = pb.GetServerInfoResponse.FromString(await server.call("GetServerInfo", b""))
        assert (info.backend, info.device, info.kernel_hash) == ("cpu", "fake", "00")
        assert list(info.dtypes) == [pb.DATA_TYPE_FLOAT32, pb.DATA_TYPE_FLOAT16]
        assert [(endpoint.address, endpoint.state) for endpoint in info.endpoints] == [
            (str(server.server.address), pb.WORKER_STATE_READY)
        ]
        assert info.limits.max_unary_bytes == 64 * 2**20
        assert (info.numerics.rounding, info.numerics.verified) == ("nearest-even", True)
        opened = (await server.raw_stream().opened()).opened
        assert opened is not None
        assert opened.instance_id == info.instance_id


async def test_server_info_tells_the_load_and_the_state() -> None:
    async def load() -> pb.Load:
        return pb.GetServerInfoResponse.FromString(await server.call("GetServerInfo", b"")).load

    async with serving(inline_bytes=0, compute_threads=1) as server:
        assert await load() == pb.Load(state=pb.WORKER_STATE_READY)
        server.backend.gate.clear()
        stream = await server.stream()
        await stream.send([header(1, (4,)), header(2, (4,))], [chunk(1, 0, [1.0] * 4)])
        await server.started()
        found = await load()
        assert (found.in_flight_requests, found.in_flight_bytes, found.open_streams) == (2, 96, 1)
        draining = asyncio.ensure_future(server.server.drain())
        await server.until(lambda: server.metric("mse_grad_ready") == 0)
        assert (await load()).state == pb.WORKER_STATE_DRAINING
        server.backend.gate.set()
        await stream.send([], [chunk(2, 0, [1.0] * 4)])
        answers = [await stream.receive()]
        while sum(len(answer.results) for answer in answers) < 2:
            answers.append(await stream.receive())
        assert any(answer.go_away for answer in answers)
        await stream.close()
        await draining


@pytest.mark.parametrize(
    ("name", "method"),
    [
        ("reflection", "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"),
        ("channelz", "/grpc.channelz.v1.Channelz/GetServers"),
    ],
)
async def test_a_service_that_is_switched_off_is_unimplemented(name: str, method: str) -> None:
    switched_off: dict[str, Any] = {name: False}
    async with serving(**switched_off) as server:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await server.channel.unary_unary(method)(b"", timeout=PATIENCE_S)
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_a_malformed_request_for_server_info_is_refused() -> None:
    async with serving() as server:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await server.call("GetServerInfo", b"\xff")
        assert told(caught.value)[1] is Reason.MESSAGE_MALFORMED


async def test_an_unknown_method_is_unimplemented() -> None:
    async with serving() as server:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await server.call("NoSuchMethod", b"")
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
