from __future__ import annotations

import asyncio
from typing import Any

import grpc
import numpy as np
import pytest

from mse_grad.open_inference import inference_pb2 as oip
from mse_grad.open_inference.inference_pb2_grpc import GRPCInferenceServiceStub
from mse_grad.reasons import Reason
from mse_grad.tensor import DTYPES, FLOAT16, FLOAT32, FLOAT64, DType, Reduction
from support.server.fakes import FakeBackend
from support.server.open_inference import FOUR, elements, infer_request
from support.server.raw_stream import gradient, pairs, told
from support.server.server_in_loop import Serving, serving
from support.waiting import PATIENCE_S


def stub(server: Serving) -> Any:
    return GRPCInferenceServiceStub(server.channel)


async def infer(server: Serving, asked: oip.ModelInferRequest, **options: Any) -> oip.ModelInferResponse:
    answer: oip.ModelInferResponse = await stub(server).ModelInfer(asked, timeout=PATIENCE_S, **options)
    return answer


async def failure(server: Serving, asked: oip.ModelInferRequest) -> tuple[grpc.StatusCode, Reason, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await infer(server, asked)
    return told(caught.value)


@pytest.mark.parametrize("inline_bytes", [0, 2**20], ids=["threads", "inline"])
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.name)
async def test_raw_contents_are_answered_by_their_raw_gradient(dtype: DType, inline_bytes: int) -> None:
    async with serving(inline_bytes=inline_bytes) as server:
        answer = await infer(server, infer_request(dtype=dtype, shape=(2, 2)))
        assert (answer.model_name, answer.model_version, answer.id) == ("mse_grad", "1", "mine")
        found = elements(answer, dtype)
        assert found.shape == (2, 2)
        assert found.tobytes() == gradient(FOUR, dtype=dtype).tobytes()


@pytest.mark.parametrize("dtype", [FLOAT32, FLOAT64], ids=lambda dtype: dtype.name)
async def test_typed_contents_are_answered_by_typed_contents(dtype: DType) -> None:
    async with serving() as server:
        answer = await infer(server, infer_request(dtype=dtype, typed=True))
        (output,) = answer.outputs
        contents = output.contents.fp32_contents if dtype is FLOAT32 else output.contents.fp64_contents
        assert np.array(contents, dtype.numpy).tobytes() == gradient(FOUR, dtype=dtype).tobytes()
        assert not answer.raw_output_contents


@pytest.mark.parametrize("reduction", list(Reduction), ids=lambda reduction: reduction.text)
async def test_the_parameter_reduction_chooses_the_reduction(reduction: Reduction) -> None:
    async with serving() as server:
        asked = infer_request()
        asked.parameters["reduction"].string_param = reduction.text
        assert elements(await infer(server, asked), FLOAT32).tobytes() == gradient(FOUR, reduction=reduction).tobytes()


async def test_the_parameter_numel_is_the_count_of_the_whole() -> None:
    async with serving() as server:
        asked = infer_request()
        asked.parameters["numel"].int64_param = 1000
        assert elements(await infer(server, asked), FLOAT32).tobytes() == gradient(FOUR, numel=1000).tobytes()


async def test_inputs_may_come_in_any_order_and_dout_may_be_a_scalar() -> None:
    async with serving() as server:
        asked = infer_request()
        asked.inputs.reverse()
        asked.raw_input_contents[:] = list(asked.raw_input_contents)[::-1]
        whole = elements(await infer(server, asked), FLOAT32)
        assert whole.tobytes() == gradient(FOUR).tobytes()
        asked.inputs[0].shape[:] = [1]
        asked.raw_input_contents[0] = np.float32(3).tobytes()
        scalar = elements(await infer(server, asked), FLOAT32)
        asked.inputs[0].shape[:] = [4]
        asked.raw_input_contents[0] = np.full(4, 3, np.float32).tobytes()
        assert scalar.tobytes() == elements(await infer(server, asked), FLOAT32).tobytes()


@pytest.mark.parametrize("typed", [False, True], ids=["raw", "typed"])
async def test_a_tensor_without_elements_has_an_empty_gradient(typed: bool) -> None:
    async with serving() as server:
        answer = await infer(server, infer_request([], shape=(0, 3), typed=typed))
        assert list(answer.outputs[0].shape) == [0, 3]
        assert b"".join(answer.raw_output_contents) == b""
        assert server.backend.computed_sizes == []


async def test_what_only_the_generated_code_reads_has_the_same_answer() -> None:
    async with serving() as server:
        asked = infer_request()
        asked.parameters["timeout"].double_param = 0.5  # wire type fixed64, which the fast path leaves alone
        assert elements(await infer(server, asked), FLOAT32).tobytes() == gradient(FOUR).tobytes()
        asked = infer_request(typed=True)
        asked.parameters["timeout"].double_param = 0.5
        contents = (await infer(server, asked)).outputs[0].contents.fp32_contents
        assert np.array(contents, np.float32).tobytes() == gradient(FOUR).tobytes()


def renamed(index: int, **fields: Any) -> oip.ModelInferRequest:
    made = infer_request()
    for name, value in fields.items():
        setattr(made.inputs[index], name, value)
    return made


def changed(change: Any, **options: Any) -> oip.ModelInferRequest:
    made = infer_request(**options)
    change(made)
    return made


def parameter(name: str, text: str) -> oip.ModelInferRequest:
    return changed(lambda made: setattr(made.parameters[name], "string_param", text))


BAD = {
    "another model": (
        changed(lambda made: setattr(made, "model_name", "resnet")), "NOT_FOUND", Reason.MODEL_UNKNOWN, "'resnet'"
    ),
    "another version": (
        changed(lambda made: setattr(made, "model_version", "7")), "NOT_FOUND", Reason.MODEL_UNKNOWN, "version '7'"
    ),
    "another input": (renamed(0, name="x"), "INVALID_ARGUMENT", Reason.INPUTS_INVALID, "'x'"),
    "an input twice": (renamed(0, name="label"), "INVALID_ARGUMENT", Reason.INPUTS_INVALID, "each once"),
    "no inputs": (
        changed(lambda made: made.ClearField("inputs")), "INVALID_ARGUMENT", Reason.INPUTS_INVALID, "0 inputs"
    ),
    "another datatype": (renamed(1, datatype="INT32"), "INVALID_ARGUMENT", Reason.DTYPE_UNKNOWN, "'INT32'"),
    "two datatypes": (renamed(1, datatype="FP16"), "INVALID_ARGUMENT", Reason.DTYPE_MISMATCH, "float16"),
    "too few raw contents": (
        changed(lambda made: made.raw_input_contents.pop()), "INVALID_ARGUMENT", Reason.INPUTS_INVALID, "2 raw"
    ),
    "raw and typed contents": (
        changed(lambda made: made.inputs[0].contents.fp32_contents.append(1)),
        "INVALID_ARGUMENT", Reason.INPUTS_INVALID, "may have one",
    ),
    "typed contents of 16 bits": (
        changed(lambda made: made.ClearField("raw_input_contents"), dtype=FLOAT16),
        "INVALID_ARGUMENT", Reason.INPUTS_INVALID, "raw_input_contents",
    ),
    "typed contents of integers": (
        changed(lambda made: made.inputs[0].contents.int_contents.append(1), typed=True),
        "INVALID_ARGUMENT", Reason.INPUTS_INVALID, "a different type",
    ),
    "another output": (
        changed(lambda made: made.outputs.add(name="z")), "INVALID_ARGUMENT", Reason.INPUTS_INVALID, "'z'"
    ),
    "unequal shapes": (
        changed(lambda made: made.inputs[1].shape.__setitem__(slice(None), [2, 2])),
        "INVALID_ARGUMENT", Reason.SHAPE_MISMATCH, "[2, 2]",
    ),
    "too few bytes": (
        changed(lambda made: made.raw_input_contents.__setitem__(0, b"1234")),
        "INVALID_ARGUMENT", Reason.BYTE_COUNT_MISMATCH, "4 bytes",
    ),
    "another reduction": (parameter("reduction", "max"), "INVALID_ARGUMENT", Reason.REDUCTION_UNKNOWN, "'max'"),
    "a misspelt parameter": (parameter("reducton", "sum"), "INVALID_ARGUMENT", Reason.PARAMETER_INVALID, "'reducton'"),
    "numel as text": (parameter("numel", "4"), "INVALID_ARGUMENT", Reason.PARAMETER_INVALID, "integer"),
    "shared memory of an input": (
        changed(lambda made: setattr(made.inputs[0].parameters["shared_memory_region"], "string_param", "mine")),
        "UNIMPLEMENTED", Reason.NOT_OFFERED, "shared memory",
    ),
    "shared memory of the output": (
        changed(
            lambda made: setattr(
                made.outputs.add(name="y").parameters["shared_memory_region"], "string_param", "mine"
            )
        ),
        "UNIMPLEMENTED", Reason.NOT_OFFERED, "shared memory",
    ),
    "classification": (
        changed(lambda made: setattr(made.outputs.add(name="y").parameters["classification"], "int64_param", 3)),
        "UNIMPLEMENTED", Reason.NOT_OFFERED, "classification",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("asked", "code", "reason", "words"), BAD.values(), ids=BAD)
async def test_a_wrong_request_fails_with_its_code_and_reason(
    asked: oip.ModelInferRequest, code: str, reason: Reason, words: str
) -> None:
    async with serving() as server:
        found, why, text = await failure(server, asked)
        assert (found.name, why) == (code, reason)
        assert words in text, text
        assert elements(await infer(server, infer_request()), FLOAT32).tobytes() == gradient(FOUR).tobytes()


async def test_a_dtype_that_the_backend_lacks_is_unimplemented() -> None:
    async with serving(backend=FakeBackend((FLOAT32,))) as server:
        code, reason, text = await failure(server, infer_request(dtype=FLOAT64))
        assert (code, reason) == (grpc.StatusCode.UNIMPLEMENTED, Reason.DTYPE_NOT_ON_BACKEND)
        assert "float64" in text


async def test_a_message_that_is_not_protobuf_is_malformed() -> None:
    async with serving() as server:
        method = server.channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await method(b"\xff\xff", timeout=PATIENCE_S)
        assert told(caught.value)[:2] == (grpc.StatusCode.INVALID_ARGUMENT, Reason.MESSAGE_MALFORMED)


@pytest.mark.parametrize("place", [b"\x22", b"\x2a\x22", b"\x32\x12"], ids=["request", "input", "output"])
async def test_a_malformed_value_of_a_parameter_is_not_hidden_by_a_second_value(place: bytes) -> None:
    entry = b"\x0a\x08priority\x12\x04FP32\x12\x02\x28\x03"  # F begins a field of a wire type that does not exist
    parameter = place[-1:] + bytes((len(entry),)) + entry
    if len(place) > 1:
        parameter = place[:1] + bytes((len(parameter),)) + parameter
    async with serving() as server:
        method = server.channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await method(infer_request().SerializeToString() + parameter, timeout=PATIENCE_S)
        assert told(caught.value)[:2] == (grpc.StatusCode.INVALID_ARGUMENT, Reason.MESSAGE_MALFORMED)


async def test_two_values_of_a_parameter_are_merged() -> None:
    entry = b"\x0a\x09reduction\x12\x06\x1a\x04mean\x12\x05\x1a\x03sum"
    message = infer_request().SerializeToString() + b"\x22" + bytes((len(entry),)) + entry
    async with serving() as server:
        answer = await server.channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")(message)
        found = elements(oip.ModelInferResponse.FromString(answer), FLOAT32)
        assert found.tobytes() == gradient(FOUR, reduction=Reduction.SUM).tobytes()


@pytest.mark.parametrize(
    "flood",
    [b"\x22\x00" * 40_000, b"\x2a\x00" * 40_000, b"\x2a\x84\x80\x04\x2a\x80\x80\x04" + b"\x0d\0\0\0\0" * 13107 + b"\0"],
    ids=["parameters", "inputs", "unpacked contents"],
)
async def test_a_flood_of_fields_is_refused_before_objects_are_made_of_it(flood: bytes) -> None:
    async with serving() as server:
        method = server.channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await method(flood, timeout=PATIENCE_S)
        assert caught.value.code() in (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.INVALID_ARGUMENT)
        assert told(caught.value)[1] in (Reason.MESSAGE_TOO_LARGE, Reason.MESSAGE_MALFORMED)


def _with_text(place: str, text: str) -> oip.ModelInferRequest:
    asked = infer_request()
    if place == "id":
        asked.id = text
    elif place == "model":
        asked.model_name = text
    elif place == "input":
        asked.inputs[0].name = text
    elif place == "output":
        asked.outputs.add(name=text)
    else:
        asked.parameters["content_type"].string_param = text
    return asked


@pytest.mark.parametrize("read_by", ["the fast path", "the generated code"])
@pytest.mark.parametrize("place", ["id", "model", "input", "output", "parameter"])
async def test_a_text_of_a_whole_message_is_refused_before_it_is_read(place: str, read_by: str) -> None:
    asked = _with_text(place, "x" * 4097)
    if read_by == "the generated code":
        asked.parameters["timeout"].double_param = 1.0
    async with serving() as server:
        code, reason, message = await failure(server, asked)
    assert (code, reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, Reason.MESSAGE_TOO_LARGE)
    assert "4097 bytes" in message


async def test_an_id_of_4096_bytes_comes_back() -> None:
    async with serving() as server:
        assert (await infer(server, _with_text("id", "x" * 4096))).id == "x" * 4096


async def test_a_message_above_the_limit_names_the_limit() -> None:
    async with serving(max_unary_bytes=2**20, max_stream_message_bytes=2**20, chunk_bytes=2**18) as server:
        code, reason, text = await failure(server, infer_request(np.zeros(2**17, np.float32)))
        assert (code, reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, Reason.MESSAGE_TOO_LARGE)
        assert "ModelInfer takes at most 1048576 (1MiB)" in text


async def test_calls_of_both_protocols_share_the_places() -> None:
    async with serving(max_unary_in_flight=1, inline_bytes=0, compute_threads=1) as server:
        server.backend.gate.clear()
        call = asyncio.ensure_future(infer(server, infer_request()))
        await server.started()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await server.call("ComputeGradient", b"")
        assert told(caught.value)[:2] == (grpc.StatusCode.RESOURCE_EXHAUSTED, Reason.SERVER_BUSY)
        server.backend.gate.set()
        await call


async def test_a_call_is_counted_under_its_own_method() -> None:
    async with serving() as server:
        await infer(server, infer_request())
        labels = {"method": "ModelInfer", "dtype": "float32", "reduction": "mean", "code": "OK"}
        await server.until(lambda: server.metric("mse_grad_requests_total", **labels) == 1)
        assert server.metric("mse_grad_transferred_bytes_total", direction="in", transport="unary") == 48


async def test_the_request_id_of_the_call_comes_back_beside_that_of_the_message() -> None:
    async with serving() as server:
        call = stub(server).ModelInfer(infer_request(), metadata=(("x-request-id", "outer"),), timeout=PATIENCE_S)
        assert (await call).id == "mine"
        assert pairs(await call.trailing_metadata())["x-request-id"] == "outer"


async def test_a_drained_server_refuses_calls() -> None:
    async with serving() as server:
        await server.server.drain()
        code, reason, _ = await failure(server, infer_request())
        assert (code, reason) == (grpc.StatusCode.UNAVAILABLE, Reason.DRAINING)
