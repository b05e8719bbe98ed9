"""Bits of the gradient: no chunking, window, layout or split into parts changes them."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

import grpc
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mse_grad.tensor import Array, DType, Reduction, little_endian_bytes
from mse_grad.v1 import mse_grad_pb2 as pb
from mse_grad_cli.conformance import Case, make_case, same_bits
from mse_grad_cli.conformance.operands import KINDS, LAYOUTS
from mse_grad_client import ClientOptions, MseGradClient
from support.numerics.compute import formula_compute
from support.server.server_process import ServerProcess
from support.waiting import wait_until

STREAM = "/mse_grad.v1.MseGradService/StreamGradients"
# From a single float64 to more than the whole tensor; odd numbers are rounded down to whole elements.
CHUNK_BYTES = (8, 24, 1000, 4095, 4096, 65_537, 1 << 20, None)
WINDOWS = (1, 2, 7, None)
# Keeps an example to a few hundred messages.
MOST_CHUNKS = 500


@pytest.fixture(scope="module", params=["stream", "direct"])
def clients(
    server: ServerProcess, request: pytest.FixtureRequest
) -> Iterator[dict[tuple[int | None, int | None], MseGradClient]]:
    every = {
        (size, window): MseGradClient(
            server.address,
            options=ClientOptions(
                chunk_bytes=size, window_chunks=window, shared_memory=False, direct=request.param == "direct"
            ),
        )
        for size in CHUNK_BYTES
        for window in WINDOWS
    }
    wait_until(lambda: {client.server_info().transport for client in every.values()} == {request.param})
    yield every
    for client in every.values():
        client.close()


@st.composite
def any_case(draw: st.DrawFn, dtypes: tuple[DType, ...], *, largest: int = 50_000) -> Case:
    """A case with any shape, data, reduction, form of dout and layout, in one of the given dtypes."""
    dtype = draw(st.sampled_from(dtypes))
    shape = draw(
        st.lists(st.integers(0, 9), max_size=8).filter(lambda shape: prod(shape) <= largest)
        | st.integers(0, largest).map(lambda count: [count])
    )
    return make_case(
        np.random.default_rng(draw(st.integers(0, 2**32))),
        dtype,
        shape,
        kind=draw(st.sampled_from(sorted(KINDS))),
        reduction=draw(st.sampled_from(Reduction)),
        dout=draw(st.sampled_from(["full", "rank 0", "rank 1", "number"])),
        layout=draw(st.sampled_from(sorted(LAYOUTS))) if shape else "C",
    )


def assert_bits(y: Array, case: Case) -> None:
    wanted = case.run(formula_compute)
    assert (y.shape, y.dtype) == (wanted.shape, wanted.dtype)
    assert same_bits(y.reshape(-1), wanted.reshape(-1)).all()


@settings(max_examples=200)
@given(data=st.data(), chunk_bytes=st.sampled_from(CHUNK_BYTES), window=st.sampled_from(WINDOWS))
def test_any_chunking_has_the_bits_of_the_formula(
    clients: dict[tuple[int | None, int | None], MseGradClient],
    dtypes: tuple[DType, ...],
    data: st.DataObject,
    chunk_bytes: int | None,
    window: int | None,
) -> None:
    case = data.draw(any_case(dtypes), label="case")
    if chunk_bytes is not None and case.predict.nbytes > chunk_bytes * MOST_CHUNKS:
        chunk_bytes = None
    assert_bits(case.run(clients[chunk_bytes, window].compute), case)


@settings(max_examples=100)
@given(data=st.data())
def test_parts_with_the_n_of_the_whole_have_its_bits(
    client: MseGradClient, dtypes: tuple[DType, ...], data: st.DataObject
) -> None:
    case = data.draw(any_case(dtypes), label="case")
    x, t = case.predict.reshape(-1), case.label.reshape(-1)
    full = isinstance(case.dout, np.ndarray) and case.dout.shape == case.predict.shape and case.dout.ndim
    numel = x.size if case.reduction is Reduction.MEAN else 0
    cuts = sorted(data.draw(st.lists(st.integers(0, x.size), max_size=4), label="cuts"))
    parts = [
        client.compute(
            x[start:end],
            t[start:end],
            np.asarray(case.dout).reshape(-1)[start:end] if full else case.dout,
            case.reduction.text,
            numel=numel,
        )
        for start, end in zip([0, *cuts], [*cuts, x.size], strict=True)
    ]
    assert_bits(np.concatenate(parts).reshape(case.predict.shape), case)


@settings(max_examples=100)
@given(data=st.data())
def test_any_interleaving_of_uneven_chunks_has_the_bits_of_the_formula(
    server: ServerProcess, dtypes: tuple[DType, ...], data: st.DataObject
) -> None:
    """Writes the messages with the generated code: chunks of any size, with several requests interleaved."""
    many = data.draw(st.lists(any_case(dtypes, largest=2000), min_size=1, max_size=4), label="cases")
    queues = [list(_chunks(number, case, data)) for number, case in enumerate(many, start=1)]
    messages = [pb.StreamGradientsRequest(headers=[_header(number, case) for number, case in enumerate(many, start=1)])]
    while any(queues):
        queue = data.draw(st.sampled_from([queue for queue in queues if queue]), label="whose chunk is next")
        if data.draw(st.booleans(), label="in a message of its own"):
            messages.append(pb.StreamGradientsRequest())
        messages[-1].chunks.append(queue.pop(0))
    received = [bytearray(case.predict.nbytes) for case in many]
    with grpc.insecure_channel(server.address) as channel:
        stream = channel.stream_stream(
            STREAM, pb.StreamGradientsRequest.SerializeToString, pb.StreamGradientsResponse.FromString
        )
        for answer in stream(iter(messages), timeout=30):
            assert not answer.errors
            for result in answer.results:
                begin = result.offset * many[result.id - 1].dtype.itemsize_bytes
                received[result.id - 1][begin : begin + len(result.y)] = result.y
    for case, y in zip(many, received, strict=True):
        assert_bits(np.frombuffer(bytes(y), case.dtype.numpy).reshape(case.predict.shape), case)


def _header(number: int, case: Case) -> pb.GradientHeader:
    scalar = _scalar(case)
    return pb.GradientHeader(
        id=number,
        dtype=case.dtype.wire,  # type: ignore[arg-type]
        shape=case.predict.shape,
        reduction=case.reduction.value,  # type: ignore[arg-type]
        scalar_dout=None if scalar is None else bytes(little_endian_bytes(scalar)),
    )


def _chunks(number: int, case: Case, data: st.DataObject) -> Iterator[pb.GradientChunk]:
    x, t = case.predict.reshape(-1), case.label.reshape(-1)
    dout = np.asarray(case.dout, case.dtype.numpy).reshape(-1)
    cuts = data.draw(st.sets(st.integers(1, max(x.size - 1, 1)), max_size=6), label="ends of chunks")
    ends = [*sorted(cut for cut in cuts if cut < x.size), x.size] if x.size else []
    for start, end in zip([0, *ends[:-1]], ends, strict=False):
        yield pb.GradientChunk(
            id=number,
            offset=start,
            predict=bytes(little_endian_bytes(x[start:end])),
            label=bytes(little_endian_bytes(t[start:end])),
            dout=b"" if _scalar(case) is not None else bytes(little_endian_bytes(dout[start:end])),
        )


def _scalar(case: Case) -> Array | None:
    dout = np.asarray(case.dout, case.dtype.numpy)
    return None if dout.shape == case.predict.shape else dout
