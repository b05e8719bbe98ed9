from __future__ import annotations

from typing import Any

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2

from mse_grad.codec import Chunk, Header
from mse_grad.reasons import Reason
from mse_grad.tensor import BFLOAT16, DTYPES, FLOAT32, FLOAT64, DType, Reduction
from support.messages import changed
from support.server.fakes import FakeBackend
from support.server.raw_stream import chunk, detail, error_info, gradient, header
from support.server.server_in_loop import serving

FOUR = [1.0, -2.0, 3.5, 0.0]
WHOLE = chunk(1, 0, FOUR)


def cut(whole: Chunk, **fields: Any) -> Chunk:
    """Returns the chunk with some fields replaced."""
    return changed(whole, **fields)


async def test_the_first_message_says_what_the_server_accepts() -> None:
    async with serving(window_chunks=3, max_open_requests=7) as server:
        opened = (await server.raw_stream().opened()).opened
        assert opened is not None
        assert len(opened.instance_id) == 32
        limits = opened.limits
        assert (limits.window_chunks, limits.max_open_requests) == (3, 7)
        assert (limits.chunk_bytes, limits.max_unary_bytes) == (512 * 1024, 64 * 2**20)


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.name)
@pytest.mark.parametrize("reduction", Reduction, ids=lambda reduction: reduction.text)
async def test_one_message_is_answered_by_its_gradient(dtype: DType, reduction: Reduction) -> None:
    async with serving() as server:
        stream = await server.stream()
        await stream.send([header(1, (4,), dtype=dtype.wire, reduction=reduction)], [chunk(1, 0, FOUR, dtype=dtype)])
        y = await stream.receive_gradient(1, 4, dtype)
        assert y.tobytes() == gradient(FOUR, reduction=reduction, dtype=dtype).tobytes()
        await stream.close()


async def test_a_scalar_dout_stands_for_every_element() -> None:
    async with serving() as server:
        stream = await server.stream()
        scalar = np.float32(3.0).tobytes()
        await stream.send(
            [header(1, (2, 2), scalar_dout=scalar), header(2, (2, 2))],
            [chunk(1, 0, FOUR, scalar_dout=True), cut(WHOLE, id=2, dout=scalar * 4)],
        )
        response = await stream.receive()
        assert [result.id for result in response.results] == [1, 2]
        assert bytes(response.results[0].y) == bytes(response.results[1].y)


async def test_a_part_of_a_larger_tensor_uses_the_count_of_the_whole() -> None:
    async with serving() as server:
        stream = await server.stream()
        await stream.send([header(1, (4,), numel=1000)], [WHOLE])
        assert (await stream.receive_gradient(1, 4)).tolist() == gradient(FOUR, numel=1000).tolist()


@pytest.mark.parametrize("inline_bytes", [0, 2**20], ids=["threads", "inline"])
@pytest.mark.parametrize("cuts", [[1], [3, 4, 7], [1, 2, 3, 4, 5, 6, 7, 8, 9]], ids=str)
async def test_the_bits_do_not_depend_on_the_chunks(cuts: list[int], inline_bytes: int) -> None:
    values = np.linspace(-3, 3, 10, dtype=np.float32)
    async with serving(inline_bytes=inline_bytes) as server:
        stream = await server.stream()
        await stream.send([header(1, (5, 2))])
        for start, stop in zip([0, *cuts], [*cuts, 10], strict=True):
            await stream.send((), [chunk(1, start, values[start:stop])])
        assert (await stream.receive_gradient(1, 10)).tobytes() == gradient(values).tobytes()


async def test_requests_interleave_and_each_gets_its_ranges_in_order() -> None:
    first, second = [1.0, 2.0, 3.0, 4.0], [9.0, 8.0, 7.0, 6.0]
    async with serving(inline_bytes=0) as server:
        stream = await server.stream()
        await stream.send([header(1, (4,)), header(2, (4,))], [chunk(1, 0, first[:2]), chunk(2, 0, second[:1])])
        await stream.send((), [chunk(2, 1, second[1:3]), chunk(1, 2, first[2:])])
        await stream.send((), [chunk(2, 3, second[3:])])
        parts: dict[int, list[tuple[int, bytes]]] = {1: [], 2: []}
        while sum(len(y) for ranges in parts.values() for _, y in ranges) < 32:
            for result in (await stream.receive()).results:
                parts[result.id].append((result.offset, bytes(result.y)))
        assert [offset for offset, _ in parts[1]] == [0, 2]
        assert [offset for offset, _ in parts[2]] == [0, 1, 3]
        assert b"".join(y for _, y in parts[1]) == gradient(first).tobytes()
        assert b"".join(y for _, y in parts[2]) == gradient(second).tobytes()


async def test_many_requests_of_one_message_are_answered_by_one_message() -> None:
    async with serving() as server:
        stream = await server.stream()
        ids = range(1, 65)
        await stream.send([header(id, (4,)) for id in ids], [cut(WHOLE, id=id) for id in ids])
        response = await stream.receive()
        assert [result.id for result in response.results] == list(ids)
        assert {bytes(result.y) for result in response.results} == {gradient(FOUR).tobytes()}


@pytest.mark.parametrize("shape", [(0,), (2, 0), (0, 2**62)], ids=str)
async def test_a_tensor_without_elements_is_answered_at_once_without_computing(shape: tuple[int, ...]) -> None:
    async with serving() as server:
        stream = await server.stream()
        await stream.send([header(1, shape)])
        (result,) = (await stream.receive()).results
        assert (result.id, result.offset, bytes(result.y)) == (1, 0, b"")
        assert server.backend.computed_sizes == []
        await stream.assert_works(2)


async def test_a_scalar_has_one_element() -> None:
    async with serving() as server:
        stream = await server.stream()
        await stream.send([header(1, ())], [chunk(1, 0, [2.0])])
        assert (await stream.receive_gradient(1, 1)).tolist() == gradient([2.0]).tolist()


BAD_HEADERS = {
    "dtype not set": (header(1, (4,), dtype=0), Reason.DTYPE_UNKNOWN, "dtype number 0"),
    "integer dtype": (header(1, (4,), dtype=9), Reason.DTYPE_UNKNOWN, "float32"),
    "rank 9": (header(1, (1,) * 9), Reason.RANK_TOO_HIGH, "at most 8"),
    "negative dimension": (header(1, (2, -2)), Reason.SHAPE_INVALID, "[2, -2]"),
    "overflowing dimensions": (header(1, (2**40, 2**40)), Reason.SHAPE_INVALID, "2^63 - 1 bytes"),
    "reduction not set": (header(1, (4,), reduction=0), Reason.REDUCTION_UNKNOWN, "REDUCTION_MEAN"),
    "unknown reduction": (header(1, (4,), reduction=7), Reason.REDUCTION_UNKNOWN, "7"),
    "numel below the count": (header(1, (4,), numel=3), Reason.NUMEL_INVALID, "at least"),
    "negative numel": (header(1, (4,), numel=-1), Reason.NUMEL_INVALID, "-1"),
    "negative tensors": (header(1, (4,), tensors=-1), Reason.TENSORS_INVALID, "-1"),
    "too many tensors": (header(1, (4,), tensors=2**60), Reason.TENSORS_INVALID, "2^63"),
    "numel without mean": (header(1, (4,), numel=4, reduction=Reduction.SUM), Reason.NUMEL_INVALID, "'sum'"),
    "scalar dout of two elements": (header(1, (4,), scalar_dout=b"12345678"), Reason.BYTE_COUNT_MISMATCH, "8 bytes"),
}


@pytest.mark.parametrize(("bad", "reason", "words"), BAD_HEADERS.values(), ids=BAD_HEADERS)
async def test_a_bad_header_fails_its_request_alone(bad: Header, reason: Reason, words: str) -> None:
    async with serving() as server:
        stream = await server.stream()
        await stream.send([bad], [WHOLE])
        id, code, found, message = await stream.receive_error()
        assert (id, code, found) == (1, grpc.StatusCode.INVALID_ARGUMENT, reason)
        assert words in message
        await stream.assert_works(2)


BAD_CHUNKS = {
    "no element": (cut(WHOLE, predict=b"", label=b"", dout=b""), Reason.BYTE_COUNT_MISMATCH, "one or more elements"),
    "truncated element": (cut(WHOLE, predict=WHOLE.predict[:-1]), Reason.BYTE_COUNT_MISMATCH, "15 bytes"),
    "label shorter": (cut(WHOLE, label=WHOLE.label[:-4]), Reason.BYTE_COUNT_MISMATCH, "label has 12 bytes"),
    "dout missing": (cut(WHOLE, dout=b""), Reason.BYTE_COUNT_MISMATCH, "dout has 0 bytes"),
    "gap": (cut(WHOLE, offset=1), Reason.CHUNK_OUT_OF_ORDER, "starts at element 1"),
    "negative offset": (cut(WHOLE, offset=-1), Reason.CHUNK_OUT_OF_ORDER, "starts at element -1"),
    "past the end": (chunk(1, 0, [*FOUR, 5.0]), Reason.CHUNK_OUT_OF_RANGE, "ends at element 5"),
}


@pytest.mark.parametrize(("bad", "reason", "words"), BAD_CHUNKS.values(), ids=BAD_CHUNKS)
async def test_a_bad_chunk_fails_its_request_alone(bad: Chunk, reason: Reason, words: str) -> None:
    async with serving() as server:
        stream = await server.stream()
        await stream.send([header(1, (4,)), header(2, (4,))], [bad, cut(WHOLE, id=2)])
        errors: list[Any] = []
        results: list[Any] = []
        while not (errors and results):
            response = await stream.receive()
            errors += response.errors
            results += response.results
        assert [error.id for error in errors] == [1]
        assert error_info(errors[0].status).reason == reason.value
        assert words in errors[0].status.message
        assert [(result.id, bytes(result.y)) for result in results] == [(2, gradient(FOUR).tobytes())]
        await stream.assert_works(3)


async def test_a_chunk_with_dout_beside_a_scalar_dout_fails() -> None:
    async with serving() as server:
        stream = await server.stream()
        await stream.send([header(1, (4,), scalar_dout=bytes(4))], [WHOLE])
        assert (await stream.receive_error())[2] is Reason.BYTE_COUNT_MISMATCH
        await stream.assert_works(2)


async def test_chunks_of_a_failed_request_are_ignored() -> None:
    async with serving() as server:
        stream = await server.stream()
        await stream.send([header(1, (4,))], [cut(WHOLE, offset=2)])
        assert (await stream.receive_error())[2] is Reason.CHUNK_OUT_OF_ORDER
        await stream.send((), [WHOLE], [1])
        await stream.assert_works(2)
        assert server.backend.computed_sizes == [3]


async def test_a_chunk_sent_twice_is_out_of_order_while_its_request_is_open_and_ignored_after() -> None:
    async with serving() as server:
        stream = await server.stream()
        await stream.send([header(1, (4,)), header(2, (8,))], [WHOLE, cut(WHOLE, id=2)])
        await stream.receive()
        await stream.send((), [WHOLE, cut(WHOLE, id=2)])
        assert (await stream.receive_error())[:3] == (2, grpc.StatusCode.INVALID_ARGUMENT, Reason.CHUNK_OUT_OF_ORDER)
        await stream.assert_works(3)


@pytest.mark.parametrize("id", [0, 5])
async def test_a_chunk_of_a_request_that_no_header_opened_is_an_error(id: int) -> None:
    async with serving() as server:
        stream = await server.stream()
        await stream.send((), [cut(WHOLE, id=id)])
        assert (await stream.receive_error())[:3] == (id, grpc.StatusCode.INVALID_ARGUMENT, Reason.REQUEST_ID_UNKNOWN)
        await stream.assert_works(1)


async def test_a_cancellation_of_a_request_that_no_header_opened_is_an_error() -> None:
    async with serving() as server:
        stream = await server.stream()
        await stream.send(cancel_ids=[5])
        id, _, reason, message = await stream.receive_error()
        assert (id, reason) == (5, Reason.REQUEST_ID_UNKNOWN)
        assert "cancel_ids names request 5" in message


async def test_two_headers_with_one_id_fail_the_open_request() -> None:
    async with serving() as server:
        stream = await server.stream()
        await stream.send([header(1, (4,))])
        await stream.send([header(1, (4,))])
        assert (await stream.receive_error())[:3] == (1, grpc.StatusCode.INVALID_ARGUMENT, Reason.REQUEST_ID_INVALID)
        await stream.send((), [WHOLE])
        await stream.assert_works(2)
        assert server.backend.computed_sizes == [3]


@pytest.mark.parametrize("id", [0, 6])
async def test_an_id_that_does_not_ascend_is_an_error_and_leaves_others_alone(id: int) -> None:
    async with serving() as server:
        stream = await server.stream()
        await stream.send([header(7, (4,)), header(id, (4,))])
        assert (await stream.receive_error())[::2] == (id, Reason.REQUEST_ID_INVALID)
        await stream.send((), [cut(WHOLE, id=7)])
        assert (await stream.receive_gradient(7, 4)).tolist() == gradient(FOUR).tolist()


async def test_a_dtype_that_the_backend_lacks_is_unimplemented_and_named() -> None:
    async with serving(backend=FakeBackend((FLOAT32, BFLOAT16))) as server:
        stream = await server.stream()
        await stream.send([header(1, (4,), dtype=FLOAT64.wire)])
        _, code, reason, message = await stream.receive_error()
        assert (code, reason) == (grpc.StatusCode.UNIMPLEMENTED, Reason.DTYPE_NOT_ON_BACKEND)
        assert "does not compute float64; it computes float32, bfloat16" in message
        await stream.assert_works(2)


async def test_an_error_names_the_request_as_the_caller_does_and_the_field() -> None:
    async with serving() as server:
        stream = await server.stream()
        await stream.send([header(1, (2, -1), request_id="mine"), header(2, (-1,), request_id="n\now")])
        response = await stream.receive()
        assert error_info(response.errors[0].status).metadata["request_id"] == "mine"
        assert error_info(response.errors[1].status).metadata["request_id"] not in ("", "n\now")
        violations = detail(response.errors[0].status, error_details_pb2.BadRequest).field_violations
        assert [violation.field for violation in violations] == ["predict"]


@pytest.mark.parametrize("message", [b"\xff", b"\x0a\x05\x08", b"not protobuf"])
async def test_a_message_that_is_not_protobuf_ends_the_rpc(message: bytes) -> None:
    async with serving() as server:
        stream = await server.stream()
        await stream.send([header(1, (4,))])
        await stream.send_bytes(message)
        code, reason, words = await stream.receive_failure()
        assert (code, reason) == (grpc.StatusCode.INVALID_ARGUMENT, Reason.MESSAGE_MALFORMED)
        assert "mse_grad.v1.StreamGradientsRequest" in words
        await (await server.stream()).assert_works(1)


async def test_an_empty_message_asks_for_nothing() -> None:
    async with serving() as server:
        stream = await server.stream()
        await stream.send_bytes(b"")
        await stream.assert_works(1)


@pytest.mark.parametrize("size_bytes", [100_000, 300_000])
async def test_a_message_above_the_limit_ends_the_rpc(size_bytes: int) -> None:
    async with serving(max_stream_message_bytes=2**16, max_unary_bytes=2**16, chunk_bytes=2**14) as server:
        stream = await server.stream()
        await stream.send_bytes(bytes(size_bytes))
        if size_bytes < server.settings.receive_limit_bytes:
            code, reason, words = await stream.receive_failure()
            assert (code, reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, Reason.MESSAGE_TOO_LARGE)
            assert "at most 65536" in words
        else:  # gRPC's own text, from before it reads the message
            with pytest.raises(grpc.aio.AioRpcError, match="larger than max") as failure:
                await stream.receive_end()
            assert failure.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        await (await server.stream()).assert_works(1)
