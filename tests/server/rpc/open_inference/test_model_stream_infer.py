from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import numpy as np
import pytest

from mse_grad.open_inference import inference_pb2 as oip
from mse_grad.open_inference.inference_pb2_grpc import GRPCInferenceServiceStub
from mse_grad.reasons import Reason
from mse_grad.tensor import FLOAT32
from mse_grad_server.errors import TokenRemoved
from mse_grad_server.rpc.admission.places import Places
from support.server.open_inference import FOUR, elements, infer_request
from support.server.raw_stream import gradient, told
from support.server.server_in_loop import Serving, serving
from support.waiting import PATIENCE_S


@asynccontextmanager
async def streaming(server: Serving) -> AsyncIterator[Any]:
    call = GRPCInferenceServiceStub(server.channel).ModelStreamInfer()
    try:
        yield call
    finally:
        call.cancel()
        await server.until(lambda: server.metric("mse_grad_in_flight_requests") == 0)


async def receive(call: Any) -> oip.ModelStreamInferResponse:
    answer = await asyncio.wait_for(call.read(), PATIENCE_S)
    assert isinstance(answer, oip.ModelStreamInferResponse), "the server ended the stream"
    return answer


async def end_of(call: Any) -> tuple[grpc.StatusCode, Reason, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await asyncio.wait_for(call.read(), PATIENCE_S)
    return told(caught.value)


async def test_requests_are_answered_in_their_order_with_their_ids() -> None:
    async with serving() as server, streaming(server) as call:
        for id in ("a", "b", "c"):
            await call.write(infer_request(id=id))
        for id in ("a", "b", "c"):
            answer = await receive(call)
            assert (answer.error_message, answer.infer_response.id) == ("", id)
            assert elements(answer.infer_response, FLOAT32).tobytes() == gradient(FOUR).tobytes()
        await call.done_writing()
        assert await asyncio.wait_for(call.code(), PATIENCE_S) is grpc.StatusCode.OK


async def test_typed_contents_travel_too() -> None:
    async with serving() as server, streaming(server) as call:
        await call.write(infer_request(typed=True))
        (output,) = (await receive(call)).infer_response.outputs
        assert list(output.contents.fp32_contents) == gradient(FOUR).tolist()


async def test_a_failed_request_leaves_the_stream_open() -> None:
    async with serving() as server, streaming(server) as call:
        await call.write(infer_request(id="bad", model_name="resnet"))
        answer = await receive(call)
        assert "'resnet'" in answer.error_message
        assert answer.infer_response == oip.ModelInferResponse(id="bad")
        await call.write(infer_request())
        assert not (await receive(call)).error_message
        for code in ("NOT_FOUND", "OK"):
            found = {one["code"] for one in requests_of(server)}
            assert code in found


def places_of(server: Serving) -> Places:
    return server.server._service.compute_gradient.places


def requests_of(server: Serving) -> list[dict[str, str]]:
    return [
        sample.labels
        for family in server.server.metrics.registry.collect()
        for sample in family.samples
        if sample.name == "mse_grad_requests_total" and sample.labels["method"] == "ModelStreamInfer"
    ]


async def test_a_malformed_message_is_answered_by_words() -> None:
    async with serving() as server:
        call = server.channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")()
        await call.write(b"\xff\xff")
        answer = oip.ModelStreamInferResponse.FromString(await asyncio.wait_for(call.read(), PATIENCE_S))
        assert "inference.ModelInferRequest" in answer.error_message
        await call.done_writing()
        assert await asyncio.wait_for(call.code(), PATIENCE_S) is grpc.StatusCode.OK


async def test_a_drain_answers_the_request_under_way_and_ends_the_stream() -> None:
    async with serving(inline_bytes=0) as server, streaming(server) as call:
        server.backend.gate.clear()
        await call.write(infer_request())
        await server.started()
        draining = asyncio.ensure_future(server.server.drain())
        await server.until(lambda: server.metric("mse_grad_ready") == 0)
        server.backend.gate.set()
        assert not (await receive(call)).error_message
        assert (await end_of(call))[:2] == (grpc.StatusCode.UNAVAILABLE, Reason.DRAINING)
        await asyncio.wait_for(draining, PATIENCE_S)


async def test_a_drain_ends_a_silent_stream_at_once() -> None:
    async with serving() as server, streaming(server) as call:
        await call.write(infer_request())
        await receive(call)
        await asyncio.wait_for(server.server.drain(), PATIENCE_S)
        assert (await end_of(call))[:2] == (grpc.StatusCode.UNAVAILABLE, Reason.DRAINING)


async def test_a_silent_stream_gives_its_place_to_a_caller_that_waits() -> None:
    async with serving(max_unary_in_flight=1, give_way_s=1) as server, streaming(server) as call:
        # It sends nothing: a client has its answer before the server has ended the write, which would count as silence.
        await server.until(lambda: server.clock.pending == 1)
        server.clock.advance(2)
        async with streaming(server) as other:
            await other.write(infer_request())
            assert not (await receive(other)).error_message
        assert (await end_of(call))[:2] == (grpc.StatusCode.RESOURCE_EXHAUSTED, Reason.SERVER_BUSY)


async def test_a_stream_whose_caller_is_silent_ends() -> None:
    async with serving(stall_timeout_s=40) as server, streaming(server) as call:
        await server.until(lambda: server.clock.pending == 1)
        server.clock.advance(40)
        assert (await end_of(call))[:2] == (grpc.StatusCode.DEADLINE_EXCEEDED, Reason.DEADLINE_EXCEEDED)


async def test_a_stream_whose_caller_does_not_read_ends() -> None:
    async with serving(stall_timeout_s=40) as server, streaming(server) as call:
        await call.write(infer_request(np.ones(2**20, np.float32)))
        await server.until(lambda: bool(requests_of(server)) and server.clock.pending == 1)
        server.clock.advance(40)
        # The status waits behind the answer, unless gRPC has taken all of it meanwhile.
        await server.until(lambda: server.clock.pending == 1 or not places_of(server))
        server.clock.advance(10)
        await server.until(lambda: not places_of(server))
        (line,) = server.events("call_failed")
        assert "the caller did not read the answer within 40 s" in line["message"]


async def test_a_cancelled_stream_gives_everything_back() -> None:
    async with serving(inline_bytes=0) as server:
        server.backend.gate.clear()
        async with streaming(server) as call:
            await call.write(infer_request())
            await server.started()
            call.cancel()
            await server.until(lambda: server.metric("mse_grad_in_flight_requests") == 0)
        server.assert_nothing_in_flight()


async def test_a_removed_token_ends_the_stream() -> None:
    async with serving() as server, streaming(server) as call:
        await call.write(infer_request())
        await receive(call)
        (stream,) = server.server._engine._streams._streams
        stream.drain(TokenRemoved("the token is gone"))
        assert (await end_of(call))[:2] == (grpc.StatusCode.UNAVAILABLE, Reason.TOKEN_REMOVED)
