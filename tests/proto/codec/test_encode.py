from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mse_grad.codec import (
    Chunk,
    Header,
    MetadataEntry,
    Result,
    SharedRange,
    TensorFrame,
    UnaryRequest,
    decode_stream_request,
    decode_stream_response,
    decode_unary_request,
    decode_unary_response,
    encode_stream_request,
    encode_unary_request,
    open_results,
    open_unary_response,
)
from mse_grad.tensor import Buffer
from mse_grad.v1 import mse_grad_pb2 as pb

uint64s = st.integers(0, 300) | st.integers(0, 2**64 - 1)
int64s = st.integers(0, 300) | st.integers(-(2**63), 2**63 - 1)
enums = st.integers(0, 4) | st.integers(-(2**31), 2**31 - 1)
shapes = st.lists(int64s, max_size=9).map(tuple)
operands = st.binary(max_size=8) | st.sampled_from([bytes(127), bytes(128), bytes(20_000)])
kinds_of_buffer: st.SearchStrategy[Callable[[bytes], Buffer]] = st.sampled_from([bytes, bytearray, memoryview])
buffers = st.builds(lambda kind, operand: kind(operand), kinds_of_buffer, operands)
headers = st.builds(
    Header,
    id=uint64s,
    dtype=enums,
    shape=shapes,
    reduction=enums,
    scalar_dout=st.none() | buffers,
    numel=int64s,
    time_left_us=int64s,
    request_id=st.text(max_size=5),
    traceparent=st.text(max_size=5),
    tensors=int64s,
    metadata=st.lists(st.builds(MetadataEntry, st.text(max_size=5), st.text(max_size=5)), max_size=3).map(tuple),
)
shared_ranges = st.builds(
    SharedRange,
    elements=int64s,
    **{f"{name}_segment": uint64s for name in ("predict", "label", "dout", "y")},
    **{f"{name}_offset": int64s for name in ("predict", "label", "dout", "y")},
)
chunks = st.builds(
    Chunk,
    id=uint64s,
    offset=int64s,
    predict=buffers,
    label=buffers,
    dout=buffers,
    shared=st.none() | shared_ranges,
)
tensors = st.builds(TensorFrame, dtype=enums, shape=shapes, data=buffers)
unary_requests = st.builds(UnaryRequest, predict=tensors, label=tensors, dout=tensors, reduction=enums, numel=int64s)
slots = st.tuples(uint64s, int64s, st.sampled_from([0, 1, 4, 127, 128, 20_000]), st.booleans())


def generated_header(header: Header) -> pb.GradientHeader:
    return pb.GradientHeader(
        id=header.id,
        dtype=header.dtype,  # type: ignore[arg-type]
        shape=header.shape,
        reduction=header.reduction,  # type: ignore[arg-type]
        scalar_dout=None if header.scalar_dout is None else bytes(header.scalar_dout),
        numel=header.numel,
        time_left_us=header.time_left_us,
        request_id=header.request_id,
        traceparent=header.traceparent,
        tensors=header.tensors,
        metadata=[pb.MetadataEntry(key=entry.key, value=entry.value) for entry in header.metadata],
    )


def generated_chunk(chunk: Chunk) -> pb.GradientChunk:
    return pb.GradientChunk(
        id=chunk.id,
        offset=chunk.offset,
        predict=bytes(chunk.predict),
        label=bytes(chunk.label),
        dout=bytes(chunk.dout),
        shared=None
        if chunk.shared is None
        else pb.SharedRange(**{name: getattr(chunk.shared, name) for name in SharedRange.__slots__}),
    )


def generated_tensor(tensor: TensorFrame) -> pb.Tensor:
    return pb.Tensor(dtype=tensor.dtype, shape=tensor.shape, data=bytes(tensor.data))  # type: ignore[arg-type]


@given(st.lists(headers, max_size=3), st.lists(chunks, max_size=3), st.lists(uint64s, max_size=3))
def test_a_stream_request_has_the_bytes_of_the_generated_code(
    headers: list[Header], chunks: list[Chunk], cancel_ids: list[int]
) -> None:
    expected = pb.StreamGradientsRequest(
        headers=[generated_header(header) for header in headers],
        chunks=[generated_chunk(chunk) for chunk in chunks],
        cancel_ids=cancel_ids,
    )
    assert encode_stream_request(headers, chunks, cancel_ids) == expected.SerializeToString()


@given(unary_requests)
def test_a_unary_request_has_the_bytes_of_the_generated_code(request: UnaryRequest) -> None:
    expected = pb.ComputeGradientRequest(
        predict=generated_tensor(request.predict),
        label=generated_tensor(request.label),
        dout=generated_tensor(request.dout),
        reduction=request.reduction,  # type: ignore[arg-type]
        numel=request.numel,
    )
    assert encode_unary_request(request) == expected.SerializeToString()


@given(st.lists(slots, max_size=4))
def test_results_filled_in_place_have_the_bytes_of_the_generated_code(slots: list[tuple[int, int, int, bool]]) -> None:
    contents = [bytes([index + 1]) * slot[2] for index, slot in enumerate(slots)]
    message, views = open_results(slots)
    for view, content in zip(views, contents, strict=True):
        view[:] = content
    expected = pb.StreamGradientsResponse(
        results=[
            pb.GradientResult(id=id_, offset=offset, y=content, fallback=fallback)
            for (id_, offset, _, fallback), content in zip(slots, contents, strict=True)
        ]
    )
    assert message == expected.SerializeToString()


@given(enums, shapes, st.sampled_from([0, 1, 4, 127, 128, 20_000]), st.booleans())
def test_a_unary_response_filled_in_place_has_the_bytes_of_the_generated_code(
    dtype: int, shape: tuple[int, ...], size_bytes: int, fallback: bool
) -> None:
    message, view = open_unary_response(dtype, shape, size_bytes, fallback)
    view[:] = b"\x07" * size_bytes
    y = pb.Tensor(dtype=dtype, shape=shape, data=b"\x07" * size_bytes)  # type: ignore[arg-type]
    assert message == pb.ComputeGradientResponse(y=y, fallback=fallback).SerializeToString()


@given(st.lists(headers, max_size=3), st.lists(chunks, max_size=3), st.lists(uint64s, max_size=3))
def test_a_stream_request_comes_back_as_it_went(
    headers: list[Header], chunks: list[Chunk], cancel_ids: list[int]
) -> None:
    decoded = decode_stream_request(encode_stream_request(headers, chunks, cancel_ids))
    assert (decoded.headers, decoded.chunks, decoded.cancel_ids) == (headers, chunks, cancel_ids)


@given(unary_requests)
def test_a_unary_request_comes_back_as_it_went(request: UnaryRequest) -> None:
    assert decode_unary_request(encode_unary_request(request)) == request


def test_the_views_of_results_lie_in_the_message() -> None:
    message, views = open_results([(1, 0, 4096, False), (2, 7, 8, True), (3, 0, 0, False)])
    whole = np.frombuffer(message, np.uint8)
    assert [view.nbytes for view in views] == [4096, 8, 0]
    for view in views[:2]:
        assert not view.readonly
        assert np.shares_memory(np.frombuffer(view, np.uint8), whole)
    np.frombuffer(views[0], np.float32)[:] = 1.5
    np.frombuffer(views[1], np.float64)[:] = -2.0
    assert decode_stream_response(message).results == [
        Result(1, 0, np.full(1024, 1.5, np.float32).tobytes()),
        Result(2, 7, np.full(1, -2.0).tobytes(), fallback=True),
        Result(3, 0, b""),
    ]


def test_the_view_of_a_unary_response_lies_in_the_message() -> None:
    message, view = open_unary_response(1, (1024,), 4096)
    assert np.shares_memory(np.frombuffer(view, np.uint8), np.frombuffer(message, np.uint8))
    np.frombuffer(view, np.float32)[:] = 1.5
    decoded = decode_unary_response(message)
    assert decoded.y == TensorFrame(1, (1024,), np.full(1024, 1.5, np.float32).tobytes())
    assert not decoded.fallback


def test_operands_that_hold_wider_items_count_in_bytes() -> None:
    elements = np.arange(6, dtype=np.float32)
    wide = elements.reshape(2, 3).data
    decoded = decode_stream_request(encode_stream_request([], [Chunk(1, 0, wide, wide, wide)]))
    assert decoded.chunks == [Chunk(1, 0, elements.tobytes(), elements.tobytes(), elements.tobytes())]


@pytest.mark.parametrize(
    "encode",
    [
        lambda: encode_stream_request([Header(-1, 1, (), 1)], []),
        lambda: encode_stream_request([Header(1, 2**31, (), 1)], []),
        lambda: encode_stream_request([Header(1, 1, (2**63,), 1)], []),
        lambda: encode_stream_request([], [Chunk(1, 2**63, b"", b"")]),
        lambda: encode_stream_request([], [], [2**64]),
        lambda: open_results([(2**64, 0, 4, False)]),
        lambda: open_results([(1, 0, 2**31, False)]),
        lambda: open_unary_response(1, (1,), 2**31),
    ],
    ids=["id", "dtype", "extent", "offset", "cancel id", "result id", "results too large", "response too large"],
)
def test_a_number_that_does_not_fit_into_its_field_is_rejected(encode: Callable[[], Any]) -> None:
    with pytest.raises(ValueError, match=r"does not fit into|protobuf allows at most 2\^31 - 1"):
        encode()
