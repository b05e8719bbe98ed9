"""Requests whose time runs out, on every path: the error names the phase, and what is left of the work is dropped."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest

from mse_grad.open_inference.inference_pb2_grpc import GRPCInferenceServiceStub
from mse_grad.reasons import Reason
from mse_grad.v1 import mse_grad_pb2 as pb
from support.same_host.handover import RawHandover
from support.same_host.packets import open_packets
from support.server.direct_client import RawDirect
from support.server.open_inference import infer_request
from support.server.raw_stream import RawStream, chunk, error_info, header, operands, rich_status
from support.server.server_in_loop import Serving, serving
from support.waiting import PATIENCE_S

COMPUTE = "/mse_grad.v1.MseGradService/ComputeGradient"
INFER = "/inference.GRPCInferenceService/ModelInfer"
ONE_THREAD: dict[str, Any] = {"inline_bytes": 0, "compute_threads": 1, "direct_listen": "auto"}
TRANSPORTS = [
    "stream",
    "direct",
    pytest.param("packets", marks=pytest.mark.skipif(sys.platform != "linux", reason="packets are of Linux alone")),
]


@asynccontextmanager
async def opened_over(server: Serving, transport: str) -> AsyncIterator[RawStream]:
    """Yields a stream whose messages travel over `transport`."""
    stream = server.raw_stream()
    opened = (await stream.opened()).opened
    assert opened is not None
    if transport == "direct":
        direct = await RawDirect.beside(opened)
        yield direct
        direct.hang_up()
    elif transport == "packets":
        with RawHandover(opened) as handover:
            yield await open_packets(handover)
    else:
        yield stream


async def phase_of_error(stream: RawStream, id: int) -> str:
    """Returns the phase in the next error, which its text has too."""
    (error,) = (await stream.receive()).errors
    info = error_info(error.status)
    assert (error.id, info.reason) == (id, Reason.DEADLINE_EXCEEDED.value)
    phase = str(info.metadata["phase"])
    assert f"ran out in the phase {phase}" in error.status.message
    return phase


def unary_message(method: str) -> bytes:
    if method == INFER:
        return infer_request().SerializeToString()
    predict, label, dout = (
        pb.Tensor(dtype=pb.DATA_TYPE_FLOAT32, shape=[3], data=operand.tobytes()) for operand in operands([1.0] * 3)
    )
    request = pb.ComputeGradientRequest(predict=predict, label=label, dout=dout, reduction=pb.REDUCTION_SUM)
    return request.SerializeToString()


@asynccontextmanager
async def busy(server: Serving) -> AsyncIterator[None]:
    """Keeps the one thread busy with a gradient of its own, and waits for its answer at the end."""
    server.backend.gate.clear()
    other = await server.stream()
    await other.send([header(1, (7,))], [chunk(1, 0, [1.0] * 7)])
    await server.started()
    yield
    server.backend.gate.set()
    await other.receive_gradient(1, 7)


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_stream_names_the_phase_upload(transport: str) -> None:
    async with serving(**ONE_THREAD) as server, opened_over(server, transport) as stream:
        await stream.send([header(1, (2,), time_left_us=1_000_000)], [chunk(1, 0, [1.0])])
        await stream.receive_gradient(1, 1)
        server.clock.advance(1)
        assert await phase_of_error(stream, 1) == "upload"
        await stream.assert_works(2)


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_stream_names_the_phase_queued_and_nothing_is_computed(transport: str) -> None:
    async with serving(**ONE_THREAD) as server, opened_over(server, transport) as stream:
        async with busy(server):
            await stream.send([header(1, (2,), time_left_us=1_000_000)], [chunk(1, 0, [1.0] * 2)])
            await server.until(lambda: server.metric("mse_grad_queued_messages") == 1)
            server.clock.advance(1)
        assert await phase_of_error(stream, 1) == "queued"
        await stream.assert_works(2)
        assert server.backend.computed_sizes == [7, 3]


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_stream_names_the_phase_kernel_and_the_rest_is_dropped(transport: str) -> None:
    async with serving(**ONE_THREAD) as server, opened_over(server, transport) as stream:
        server.backend.gate.clear()
        headers = [header(1, (2,)), header(2, (5,), time_left_us=1_000_000)]
        await stream.send(headers, [chunk(1, 0, [1.0] * 2), chunk(2, 0, [1.0] * 5)])
        await server.started()
        server.clock.advance(1)  # while the gradient before it is computed, in the same batch
        await server.until(lambda: server.metric("mse_grad_in_flight_requests") == 1)
        server.backend.gate.set()
        ids: list[int] = []
        phases: list[str] = []
        while not (ids and phases):
            response = await stream.receive()
            ids += [result.id for result in response.results]
            phases += [error_info(error.status).metadata["phase"] for error in response.errors]
        assert (ids, phases) == ([1], ["kernel"])
        assert 5 not in server.backend.computed_sizes


@pytest.mark.parametrize("method", [COMPUTE, INFER])
async def test_a_unary_call_names_the_phase_queued_and_is_not_computed(method: str) -> None:
    async with serving(**ONE_THREAD) as server:
        async with busy(server):
            call = server.channel.unary_unary(method)(unary_message(method), timeout=PATIENCE_S)
            await server.until(lambda: server.metric("mse_grad_queued_messages") == 1)
            server.clock.advance(PATIENCE_S + 1)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert error_info(rich_status(caught.value)).metadata["phase"] == "queued"
        assert server.backend.computed_sizes == [7]


@pytest.mark.parametrize("method", [COMPUTE, INFER])
async def test_the_log_names_the_phase_of_a_call_that_its_caller_ended(method: str) -> None:
    async with serving(**ONE_THREAD) as server:
        server.backend.gate.clear()
        found = ""
        for timeout_s in (0.2, 0.8, 3.2, 12.8):  # a busy machine may not begin the gradient within the first ones
            before = len(server.events("request_failed"))
            with pytest.raises(grpc.aio.AioRpcError):
                await server.channel.unary_unary(method)(unary_message(method), timeout=timeout_s)
            await server.until(lambda before=before: len(server.events("request_failed")) > before)  # type: ignore[misc]
            found = server.events("request_failed")[-1]["message"]
            if "phase kernel" in found:
                break
            server.backend.gate.set()
            await server.until(lambda: server.metric("mse_grad_in_flight_requests") == 0)
            server.backend.gate.clear()
        server.backend.gate.set()
        assert found == "the time that the caller gave ran out in the phase kernel"


async def test_a_message_of_model_stream_infer_names_the_phase_queued() -> None:
    async with serving(**ONE_THREAD) as server:
        call = GRPCInferenceServiceStub(server.channel).ModelStreamInfer(timeout=PATIENCE_S)
        async with busy(server):
            await call.write(infer_request(id="a"))
            await server.until(lambda: server.metric("mse_grad_queued_messages") == 1)
            server.clock.advance(PATIENCE_S + 1)
        answer = await call.read()
        assert (answer.infer_response.id, "in the phase queued" in answer.error_message) == ("a", True)
        assert server.backend.computed_sizes == [7]
        call.cancel()


async def test_a_message_whose_stream_is_cancelled_counts_as_failed() -> None:
    async with serving(**ONE_THREAD) as server:
        call = GRPCInferenceServiceStub(server.channel).ModelStreamInfer()
        async with busy(server):
            await call.write(infer_request(id="a"))
            await server.until(lambda: server.metric("mse_grad_queued_messages") == 1)
            call.cancel()
            await server.until(lambda: bool(server.events("request_failed")))
        (line,) = server.events("request_failed")
        assert (line["method"], line["reason"]) == ("ModelStreamInfer", "CANCELLED")
        assert server.backend.computed_sizes == [7]
