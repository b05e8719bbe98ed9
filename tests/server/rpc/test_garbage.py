"""Reference cycles: an RPC that has ended leaves none. A flood of RPCs would leave so much that a collection stalls."""

from __future__ import annotations

import asyncio
import gc
from collections import Counter
from collections.abc import Awaitable, Callable

import grpc
import pytest

from mse_grad.open_inference.inference_pb2_grpc import GRPCInferenceServiceStub
from mse_grad_server.process.clock import LoopClock
from support.garbage import kept_garbage
from support.same_host.handover import RawHandover
from support.same_host.packets import open_packets
from support.server.direct_client import RawDirect
from support.server.open_inference import infer_request
from support.server.raw_stream import header
from support.server.server_in_loop import Serving, serving
from support.waiting import PATIENCE_S

CHECK = "/grpc.health.v1.Health/Check"
WATCH = "/grpc.health.v1.Health/Watch"
STREAM = "/mse_grad.v1.MseGradService/StreamGradients"
COMPUTE = "/mse_grad.v1.MseGradService/ComputeGradient"
MOST_STREAMS = 2


async def failed(call: Awaitable[object]) -> None:
    with pytest.raises((grpc.aio.AioRpcError, asyncio.CancelledError)):
        await asyncio.wait_for(call, PATIENCE_S)


async def health(server: Serving) -> None:
    await server.channel.unary_unary(CHECK)(b"")


async def watch(server: Serving) -> None:
    call = server.channel.unary_stream(WATCH)(b"")
    await call.read()
    call.cancel()


async def refused(server: Serving) -> None:
    await failed(server.channel.unary_unary(COMPUTE)(b"\xff"))


async def silent(server: Serving) -> None:
    call = server.channel.stream_unary(COMPUTE)(timeout=0.05)
    await failed(call)


async def infer(server: Serving) -> None:
    await GRPCInferenceServiceStub(server.channel).ModelInfer(infer_request(), timeout=PATIENCE_S)


async def stream_infer(server: Serving) -> None:
    call = GRPCInferenceServiceStub(server.channel).ModelStreamInfer()
    await call.write(infer_request())
    await call.read()
    await call.done_writing()
    assert await call.code() is grpc.StatusCode.OK


async def closed(server: Serving) -> None:
    stream = await server.stream()
    await stream.assert_works(1)
    await stream.close()


async def cancelled(server: Serving) -> None:
    stream = await server.stream()
    await stream.send([header(1, (100,))])
    await server.until(lambda: server.metric("mse_grad_in_flight_requests") == 1)
    stream.call.cancel()


async def malformed(server: Serving) -> None:
    stream = await server.stream()
    await stream.send_bytes(b"\xff")
    await stream.receive_failure()


async def late(server: Serving) -> None:
    stream = await server.stream(timeout=0.2)
    await failed(stream.call.read())


async def gave_way(server: Serving) -> None:
    """Streams for which idle ones give their places away, and one that finds no place."""
    streams = [await server.stream() for _ in range(2 * MOST_STREAMS)]
    for _ in range(2):
        await server.raw_stream().receive_failure()
    for stream in streams:
        stream.call.cancel()


async def direct(server: Serving) -> None:
    stream = server.raw_stream()
    opened = (await stream.opened()).opened
    assert opened is not None
    beside = await RawDirect.beside(opened)
    await beside.assert_works(1)
    await stream.close()
    beside.hang_up()


async def packets(server: Serving) -> None:
    stream = server.raw_stream()
    opened = (await stream.opened()).opened
    assert opened is not None
    with RawHandover(opened) as handover:
        beside = await open_packets(handover)
        await beside.assert_works(1)
    await stream.close()


ENDS: tuple[Callable[[Serving], Awaitable[None]], ...] = (
    health,
    watch,
    refused,
    silent,
    infer,
    stream_infer,
    closed,
    cancelled,
    malformed,
    late,
    gave_way,
    direct,
    packets,
)


@pytest.mark.parametrize("rpc", ENDS, ids=lambda rpc: rpc.__name__)
async def test_an_rpc_that_has_ended_leaves_no_cycle(rpc: Callable[[Serving], Awaitable[None]]) -> None:
    # Timers of the real clock are part of what may form a cycle.
    async with serving(clock=LoopClock(), max_streams=MOST_STREAMS, direct_listen="127.0.0.1:0") as server:

        async def ended() -> None:
            interceptor = server.server._interceptor
            await server.until(lambda: not interceptor._calls and server.metric("mse_grad_open_streams") == 0)

        await rpc(server)  # gRPC never releases the first call of a server
        await ended()
        with kept_garbage():
            for _ in range(3):
                await rpc(server)
            await ended()
            await health(server)  # gRPC keeps each call until the next one
            await asyncio.sleep(0)
            gc.collect()
            found = Counter(
                type(each).__name__ for each in gc.garbage if str(type(each).__module__).startswith("mse_grad_server")
            )
    assert not found
