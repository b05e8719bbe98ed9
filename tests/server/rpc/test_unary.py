from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2
from prometheus_client.openmetrics.exposition import generate_latest as openmetrics

from mse_grad.codec import TensorFrame, UnaryRequest, decode_unary_response, encode_unary_request
from mse_grad.reasons import Reason
from mse_grad.tensor import DTYPES, FLOAT16, FLOAT32, FLOAT64, DType, Reduction
from mse_grad.v1 import mse_grad_pb2 as pb
from mse_grad_server.errors import BackendError
from support.messages import changed
from support.server.fakes import FakeBackend
from support.server.raw_stream import detail, gradient, operands, pairs, rich_status, told, trailing
from support.server.server_in_loop import Serving, serving

FOUR = [1.0, -2.0, 3.5, 0.0]


def request(
    values: Any = FOUR, *, dtype: DType = FLOAT32, shape: tuple[int, ...] | None = None, **fields: Any
) -> bytes:
    """Returns a message with these values; `fields` replace the request's or, as predict_shape=..., a tensor's."""
    frames = {
        name: TensorFrame(dtype.wire, shape or (len(values),), tensor.tobytes())
        for name, tensor in zip(("predict", "label", "dout"), operands(values, dtype), strict=True)
    }
    for key in [key for key in fields if "_" in key]:
        name, _, part = key.partition("_")
        frames[name] = changed(frames[name], **{part: fields.pop(key)})
    whole = UnaryRequest(frames["predict"], frames["label"], frames["dout"], Reduction.MEAN)
    return encode_unary_request(changed(whole, **fields))


async def compute(server: Serving, message: bytes, **options: Any) -> pb.ComputeGradientResponse:
    return pb.ComputeGradientResponse.FromString(await server.call("ComputeGradient", message, **options))


async def failure(server: Serving, message: bytes, **options: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await server.call("ComputeGradient", message, **options)
    return caught.value


@pytest.mark.parametrize("inline_bytes", [0, 2**20], ids=["threads", "inline"])
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.name)
async def test_whole_tensors_are_answered_by_their_gradient(dtype: DType, inline_bytes: int) -> None:
    async with serving(inline_bytes=inline_bytes) as server:
        answer = decode_unary_response(await server.call("ComputeGradient", request(dtype=dtype, shape=(2, 2))))
        assert (answer.y.dtype, answer.y.shape, answer.fallback) == (dtype.wire, (2, 2), False)
        assert bytes(answer.y.data) == gradient(FOUR, dtype=dtype).tobytes()


@pytest.mark.parametrize("shape", [(), (1,)], ids=str)
async def test_a_scalar_dout_stands_for_every_element(shape: tuple[int, ...]) -> None:
    async with serving() as server:
        scalar = np.float32(3).tobytes()
        answer = await compute(server, request(dout_shape=shape, dout_data=scalar))
        whole = await compute(server, request(dout_data=scalar * 4))
        assert answer.y.data == whole.y.data


async def test_a_part_of_a_larger_tensor_uses_the_count_of_the_whole() -> None:
    async with serving() as server:
        answer = await compute(server, request(numel=1000))
        assert answer.y.data == gradient(FOUR, numel=1000).tobytes()


async def test_a_tensor_without_elements_has_an_empty_gradient_and_is_not_computed() -> None:
    async with serving() as server:
        answer = await compute(server, request([], shape=(0, 3)))
        assert (list(answer.y.shape), answer.y.data) == ([0, 3], b"")
        assert server.backend.computed_sizes == []


BAD: dict[str, tuple[bytes, Reason, str, tuple[str, ...]]] = {
    "shapes": (request(label_shape=(2, 2)), Reason.SHAPE_MISMATCH, "label", ("[4]", "[2, 2]")),
    "dtypes": (request(label_dtype=FLOAT16.wire), Reason.DTYPE_MISMATCH, "label", ("float32", "float16")),
    "dtype of dout": (request(dout_dtype=FLOAT64.wire), Reason.DTYPE_MISMATCH, "dout", ("float32", "float64")),
    "integer dtype": (request(predict_dtype=5), Reason.DTYPE_UNKNOWN, "predict", ("5", "float32")),
    "nothing set": (b"", Reason.DTYPE_UNKNOWN, "predict", ("0",)),
    "rank 9": (request(predict_shape=(1,) * 9, label_shape=(1,) * 9), Reason.RANK_TOO_HIGH, "predict", ("9", "8")),
    "negative dimension": (request(predict_shape=(-4,)), Reason.SHAPE_INVALID, "predict", ("[-4]",)),
    "overflowing dimensions": (request(shape=(2**31, 2**31, 2**31)), Reason.SHAPE_INVALID, "predict", ("2^63",)),
    "reduction": (request(reduction=9), Reason.REDUCTION_UNKNOWN, "reduction", ("9", "REDUCTION_SUM")),
    "no reduction": (request(reduction=0), Reason.REDUCTION_UNKNOWN, "reduction", ("0",)),
    "dout of two elements": (request(dout_shape=(2,)), Reason.DOUT_SHAPE_MISMATCH, "dout", ("[4]", "[2]")),
    "dout of rank 2": (request(dout_shape=(1, 1)), Reason.DOUT_SHAPE_MISMATCH, "dout", ("[1, 1]",)),
    "too few bytes": (request(label_data=b"1234"), Reason.BYTE_COUNT_MISMATCH, "label", ("4 bytes", "16")),
    "too many bytes": (request(predict_data=bytes(20)), Reason.BYTE_COUNT_MISMATCH, "predict", ("20 bytes",)),
    "scalar dout of no bytes": (request(dout_shape=(), dout_data=b""), Reason.BYTE_COUNT_MISMATCH, "dout", ("0 b",)),
    "numel below the count": (request(numel=3), Reason.NUMEL_INVALID, "numel", ("3", "4")),
    "numel without mean": (request(numel=9, reduction=Reduction.SUM), Reason.NUMEL_INVALID, "numel", ("sum",)),
}


@pytest.mark.parametrize(("message", "reason", "field", "words"), BAD.values(), ids=BAD)
async def test_bad_operands_are_invalid_and_the_field_is_named(
    message: bytes, reason: Reason, field: str, words: tuple[str, ...]
) -> None:
    async with serving() as server:
        error = await failure(server, message)
        code, found, text = told(error)
        assert (code, found) == (grpc.StatusCode.INVALID_ARGUMENT, reason)
        assert all(word in text for word in words), text
        violations = detail(rich_status(error), error_details_pb2.BadRequest).field_violations
        assert [violation.field for violation in violations] == [field]
        assert (await compute(server, request())).y.data == gradient(FOUR).tobytes()


async def test_a_message_that_is_not_protobuf_is_malformed() -> None:
    async with serving() as server:
        code, reason, _ = told(await failure(server, b"\xff\xff"))
        assert (code, reason) == (grpc.StatusCode.INVALID_ARGUMENT, Reason.MESSAGE_MALFORMED)


async def test_a_dtype_that_the_backend_lacks_is_unimplemented() -> None:
    async with serving(backend=FakeBackend((FLOAT32,))) as server:
        code, reason, text = told(await failure(server, request(dtype=FLOAT64)))
        assert (code, reason) == (grpc.StatusCode.UNIMPLEMENTED, Reason.DTYPE_NOT_ON_BACKEND)
        assert "float64" in text


async def test_a_message_above_the_limit_names_the_limit_and_the_way_around() -> None:
    async with serving(max_unary_bytes=2**20, max_stream_message_bytes=2**20, chunk_bytes=2**18) as server:
        code, reason, text = told(await failure(server, bytes(2**20 + 1)))
        assert (code, reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, Reason.MESSAGE_TOO_LARGE)
        assert "at most 1048576 (1MiB)" in text
        assert "StreamGradients takes tensors of any size" in text
        error = await failure(server, bytes(2**21 + 1))
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert str(2**21) in (error.details() or "")


async def test_calls_beyond_those_allowed_are_refused_before_their_message_is_read() -> None:
    async with serving(max_unary_in_flight=2, inline_bytes=0, compute_threads=2) as server:
        server.backend.gate.clear()
        calls = [asyncio.ensure_future(compute(server, request())) for _ in range(2)]
        await server.started(2)
        error = await failure(server, request())
        assert told(error)[:2] == (grpc.StatusCode.RESOURCE_EXHAUSTED, Reason.SERVER_BUSY)
        assert detail(rich_status(error), error_details_pb2.RetryInfo).retry_delay.ToMilliseconds() > 0
        server.backend.gate.set()
        for call in calls:
            assert (await call).y.data == gradient(FOUR).tobytes()
        assert (await compute(server, request())).y.data == gradient(FOUR).tobytes()


async def test_operands_beyond_the_admitted_bytes_are_refused() -> None:
    limits: dict[str, Any] = {"max_unary_bytes": 2**20, "max_stream_message_bytes": 2**20, "chunk_bytes": 2**18}
    async with serving(**limits, max_in_flight_bytes=2**20, inline_bytes=0) as server:
        server.backend.gate.clear()
        values = np.ones(2**16, np.float32)
        call = asyncio.ensure_future(compute(server, request(values)))
        await server.started()
        assert server.metric("mse_grad_in_flight_bytes") == 3 * 2**18
        assert told(await failure(server, request(values)))[1] is Reason.SERVER_BUSY
        server.backend.gate.set()
        await call


async def test_a_cancelled_call_gives_everything_back() -> None:
    async with serving(inline_bytes=0) as server:
        server.backend.gate.clear()
        call = server.channel.unary_unary("/mse_grad.v1.MseGradService/ComputeGradient")(request())
        await server.started()
        call.cancel()
        await server.until(lambda: server.metric("mse_grad_in_flight_requests") == 0)
        server.assert_nothing_in_flight()
        labels = {"method": "ComputeGradient", "dtype": "float32", "reduction": "mean", "code": "CANCELLED"}
        await server.until(lambda: server.metric("mse_grad_requests_total", **labels) == 1)


async def test_a_call_that_is_cancelled_in_the_queue_leaves_the_queue() -> None:
    async with serving(inline_bytes=0, compute_threads=1) as server:
        server.backend.gate.clear()
        method = server.channel.unary_unary("/mse_grad.v1.MseGradService/ComputeGradient")
        first = method(request())
        await server.started()
        second = method(request())
        await server.until(lambda: server.metric("mse_grad_queued_messages") == 1)
        second.cancel()
        await server.until(lambda: server.metric("mse_grad_queued_messages") == 0)
        server.backend.gate.set()
        await first
        assert server.metric("mse_grad_queued_messages") == 0


async def test_a_call_is_counted_by_its_transport_phases_margin_and_trace() -> None:
    trace = "0af7651916cd43dd8448eb211c80319c"
    async with serving() as server:
        metadata = (("traceparent", f"00-{trace}-b7ad6b7169203331-01"),)
        await server.call("ComputeGradient", request(shape=(2, 2)), metadata=metadata)
        for direction, elements in (("in", 12), ("out", 4)):
            labels = {"direction": direction, "transport": "unary"}
            assert server.metric("mse_grad_transferred_elements_total", **labels) == elements
            assert server.metric("mse_grad_transferred_bytes_total", **labels) == 4 * elements
        for phase in ("decode", "encode", "kernel"):
            assert server.metric("mse_grad_phase_seconds_count", phase=phase) == 1
        assert server.metric("mse_grad_deadline_margin_seconds_count") == 1
        page = openmetrics(server.server.metrics.registry).decode()  # type: ignore[no-untyped-call]
        assert trace in page


async def test_a_call_whose_caller_stops_waiting_is_counted_as_late() -> None:
    async with serving(inline_bytes=0) as server:
        server.backend.gate.clear()

        def counted(code: str) -> float:
            return server.metric(
                "mse_grad_requests_total", method="ComputeGradient", dtype="float32", reduction="mean", code=code
            )

        def all_counted(begun: int) -> bool:
            return counted("DEADLINE_EXCEEDED") + counted("CANCELLED") >= begun

        begun = 0
        for timeout_s in (0.2, 0.8, 3.2, 12.8):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await server.channel.unary_unary("/mse_grad.v1.MseGradService/ComputeGradient")(
                    request(), timeout=timeout_s
                )
            assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            if server.backend.started.acquire(blocking=False):  # not if a busy machine had not even read the request
                begun += 1
                await server.until(partial(all_counted, begun))
                if counted("DEADLINE_EXCEEDED"):  # not if the client's clock, a moment ahead of the server's, was first
                    break
        assert counted("DEADLINE_EXCEEDED") >= 1
        server.assert_nothing_in_flight()


async def test_a_call_whose_time_ran_out_in_the_queue_is_not_computed() -> None:
    async with serving(inline_bytes=0, compute_threads=1) as server:
        server.backend.gate.clear()
        first = asyncio.ensure_future(compute(server, request()))
        await server.started()
        second = asyncio.ensure_future(compute(server, request()))
        await server.until(lambda: server.metric("mse_grad_in_flight_bytes") == 2 * 48)
        server.clock.advance(100)
        server.backend.gate.set()
        assert (await first).y.data == gradient(FOUR).tobytes()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await second
        assert told(caught.value)[:2] == (grpc.StatusCode.DEADLINE_EXCEEDED, Reason.DEADLINE_EXCEEDED)
        assert server.backend.computed_sizes == [4]


async def test_a_call_without_a_message_is_malformed() -> None:
    async with serving() as server:
        call = server.channel.stream_unary("/mse_grad.v1.MseGradService/ComputeGradient")()
        await call.done_writing()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
        assert told(caught.value)[1] is Reason.MESSAGE_MALFORMED


async def test_a_call_whose_message_never_comes_ends() -> None:
    async with serving(stall_timeout_s=40) as server:
        call = server.channel.stream_unary("/mse_grad.v1.MseGradService/ComputeGradient")()
        await server.until(lambda: server.clock.pending == 1)
        server.clock.advance(40)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
        code, reason, text = told(caught.value)
        assert (code, reason) == (grpc.StatusCode.DEADLINE_EXCEEDED, Reason.DEADLINE_EXCEEDED)
        assert "within 40 s" in text


async def test_the_details_of_an_internal_error_stay_in_the_server() -> None:
    async with serving() as server:
        server.backend.error = BackendError("secret")
        code, reason, text = told(await failure(server, request(), metadata=(("x-request-id", "mine"),)))
        assert (code, reason) == (grpc.StatusCode.INTERNAL, Reason.INTERNAL)
        assert "secret" not in text
        assert "mine" in text
        (line,) = server.events("request_failed")
        assert (line["level"], line["request_id"]) == ("error", "mine")
        assert "secret" in line["exception"]


async def test_the_request_id_of_the_caller_comes_back() -> None:
    async with serving() as server:
        error = await failure(server, b"", metadata=(("x-request-id", "mine"),))
        assert trailing(error)["x-request-id"] == "mine"
        call = server.channel.unary_unary("/mse_grad.v1.MseGradService/ComputeGradient")(
            request(), metadata=(("x-request-id", "mine"),)
        )
        await call
        assert pairs(await call.trailing_metadata())["x-request-id"] == "mine"


@pytest.mark.parametrize("unusable", [None, "x" * 129, ""], ids=["none", "too long", "empty"])
async def test_a_call_without_a_usable_request_id_gets_one(unusable: str | None) -> None:
    async with serving() as server:
        metadata = () if unusable is None else (("x-request-id", unusable),)
        first, second = [trailing(await failure(server, b"", metadata=metadata))["x-request-id"] for _ in range(2)]
        assert first != second
        assert not {first, second} & {"", unusable}


async def test_calls_are_refused_while_the_server_drains_and_those_accepted_are_answered() -> None:
    async with serving(inline_bytes=0) as server:
        server.backend.gate.clear()
        call = asyncio.ensure_future(compute(server, request()))
        await server.started()
        draining = asyncio.ensure_future(server.server.drain())
        await server.until(lambda: server.metric("mse_grad_ready") == 0)
        error = await failure(server, request())
        assert told(error)[:2] == (grpc.StatusCode.UNAVAILABLE, Reason.DRAINING)
        assert detail(rich_status(error), error_details_pb2.RetryInfo) is not None
        assert not draining.done()
        server.backend.gate.set()
        assert (await call).y.data == gradient(FOUR).tobytes()
        await asyncio.wait_for(draining, 20)
