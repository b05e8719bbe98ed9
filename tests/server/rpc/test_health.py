from __future__ import annotations

import asyncio

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from support.server.fakes import FakeBackend
from support.server.server_in_loop import Serving, serving

SERVICE = "mse_grad.v1.MseGradService"
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


async def check(server: Serving, service: str) -> int:
    answer = await health_pb2_grpc.HealthStub(server.channel).Check(health_pb2.HealthCheckRequest(service=service))
    return int(answer.status)


@pytest.mark.parametrize("service", ["", SERVICE])
async def test_a_watcher_sees_the_whole_life(service: str) -> None:
    backend = FakeBackend()
    backend.gate.clear()
    async with serving(backend=backend, open=False) as server:
        opening = asyncio.ensure_future(server.server.open())
        await server.started()
        server.connect()
        watch = health_pb2_grpc.HealthStub(server.channel).Watch(health_pb2.HealthCheckRequest(service=service))
        assert (await watch.read()).status == NOT_SERVING
        assert await check(server, service) == NOT_SERVING
        backend.gate.set()
        await opening
        assert (await watch.read()).status == SERVING
        assert await check(server, service) == SERVING
        draining = asyncio.ensure_future(server.server.drain())
        assert (await watch.read()).status == NOT_SERVING
        await asyncio.wait_for(draining, 20)


async def test_an_unknown_service_is_not_found() -> None:
    async with serving() as server:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await check(server, "no.such.Service")
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
