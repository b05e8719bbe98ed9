"""The open requests of a stream with arbitrary messages, without gRPC or an event loop."""

from __future__ import annotations

import io
import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mse_grad.codec import Chunk, Header, StreamRequest, decode_stream_request, decode_stream_response
from mse_grad.reasons import ContractError, Reason
from mse_grad.tensor import DTYPES, DType, Reduction
from mse_grad_server.engine.engine import Engine, EngineLimits
from mse_grad_server.engine.shares import Share
from mse_grad_server.errors import Cancelled, InvalidArgument
from mse_grad_server.metrics.collectors import TransferCounter
from mse_grad_server.metrics.recorder import Recorder
from mse_grad_server.metrics.registry import Metrics
from mse_grad_server.process.log import open_log
from mse_grad_server.rpc.stream.limits import StreamLimits
from mse_grad_server.rpc.stream.requests import OpenRequests
from mse_grad_server.settings.model import Settings
from support.server.fakes import FakeBackend
from support.server.raw_stream import chunk, gradient, header, reason_of


class Table:
    def __init__(self, **settings: int) -> None:
        told = Settings(**settings)  # type: ignore[arg-type]
        self.metrics = Metrics()
        self.backend = FakeBackend()
        self.engine = Engine(self.backend, self.metrics, EngineLimits.of(told))
        self.engine.set_ready(inline_bytes=0)
        recorder = Recorder(self.metrics, open_log("error", "json", stream=io.StringIO()), logs_every_request=False)
        self.requests = OpenRequests(
            self.engine,
            Share(),
            recorder,
            StreamLimits.of(told),
            name_of=str,
            transferred=TransferCounter(),
            now=lambda: 0.0,
            begin=lambda batch: None,
        )

    def exchange(self, frame: StreamRequest) -> tuple[list[tuple[int, int, bytes]], list[tuple[int, Reason]]]:
        """Passes on a message and returns the results (id, offset, y) and the errors (id, reason)."""
        batch = self.requests.handle(frame, 0.0)
        message = batch.compute(self.backend.compute_all, lambda: 0.0)
        self.requests.settle(batch, 0.0)
        results = decode_stream_response(message).results
        errors = decode_stream_response(self.requests.errors.take()).errors
        return (
            [(result.id, result.offset, bytes(result.y)) for result in results],
            [(error.id, reason_of(error.status)) for error in errors],
        )

    def counted(self) -> float:
        families = self.metrics.registry.collect()
        samples = itertools.chain.from_iterable(family.samples for family in families)
        return sum(sample.value for sample in samples if sample.name == "mse_grad_requests_total")


@given(
    count=st.integers(1, 60),
    cuts=st.sets(st.integers(1, 59)),
    per_message=st.integers(1, 4),
    dtype=st.sampled_from(DTYPES),
    reduction=st.sampled_from(Reduction),
    numel=st.integers(60, 2**40),
)
def test_any_cut_into_chunks_and_messages_gives_the_same_bits(
    count: int, cuts: set[int], per_message: int, dtype: DType, reduction: Reduction, numel: int
) -> None:
    values = np.linspace(-2, 3, count)
    numel = numel if reduction is Reduction.MEAN else 0
    bounds = [0, *sorted(cut for cut in cuts if cut < count), count]
    chunks = [chunk(1, a, values[a:b], dtype=dtype) for a, b in itertools.pairwise(bounds)]
    table = Table()
    headers = [header(1, (count,), dtype=dtype.wire, reduction=reduction, numel=numel)]
    y = b""
    for start in range(0, len(chunks), per_message):
        results, errors = table.exchange(StreamRequest(headers, chunks[start : start + per_message]))
        headers = []
        assert errors == []
        y += b"".join(part for _, _, part in results)
    assert y == gradient(values, reduction=reduction, numel=numel or None, dtype=dtype).tobytes()
    assert (len(table.requests), table.engine.in_flight_bytes, table.engine.in_flight_requests) == (0, 0, 0)


ids = st.integers(0, 6)
headers = st.builds(
    Header,
    id=ids,
    dtype=st.integers(0, 5),
    shape=st.lists(st.integers(-1, 3), max_size=3).map(tuple),
    reduction=st.integers(0, 4),
    scalar_dout=st.none() | st.binary(min_size=4, max_size=4),
    numel=st.integers(-1, 9),
)
operand = st.sampled_from([b"", b"1234", b"12345678", b"123"])
chunks = st.builds(Chunk, id=ids, offset=st.integers(-1, 3), predict=operand, label=operand, dout=operand)
messages = st.builds(
    StreamRequest,
    headers=st.lists(headers, max_size=2),
    chunks=st.lists(chunks, max_size=4),
    cancel_ids=st.lists(ids, max_size=2),
)


@given(st.lists(messages, max_size=8))
def test_for_any_messages_each_request_ends_once_and_releases_its_bytes(frames: list[StreamRequest]) -> None:
    table = Table(max_open_requests=4)
    opened: set[int] = set()
    finished: set[int] = set()
    rejected = 0
    for frame in frames:
        before = table.requests.last_id
        results, errors = table.exchange(frame)
        opened |= {entry.id for entry in frame.headers if entry.id > before}
        assert not finished & {id for id, _, _ in results}, "an ended request got another answer"
        rejected += len(errors)
        finished |= {id for id, reason in errors if id in opened and reason is not Reason.REQUEST_ID_INVALID}
    table.requests.close(Cancelled("the end"), 0.0)
    assert (len(table.requests), table.engine.in_flight_bytes, table.engine.in_flight_requests) == (0, 0, 0)
    assert table.counted() >= rejected


@given(st.binary(max_size=200))
def test_any_bytes_are_decoded_or_malformed(message: bytes) -> None:
    table = Table()
    reason = None
    try:
        table.exchange(decode_stream_request(message))
    except ContractError as error:
        reason = error.reason
    table.requests.close(Cancelled("the end"), 0.0)
    assert reason in (None, Reason.MESSAGE_MALFORMED)
    assert table.engine.in_flight_requests == 0


def test_a_request_is_open_until_its_last_chunk_is_computed() -> None:
    table = Table()
    first = table.requests.handle(StreamRequest([header(1, (2,))], [chunk(1, 0, [1.0])]), 0.0)
    second = table.requests.handle(StreamRequest(chunks=[chunk(1, 1, [2.0])]), 0.0)
    for batch, left_open in ((first, 1), (second, 0)):
        assert decode_stream_response(batch.compute(table.backend.compute_all, lambda: 0.0)).results
        table.requests.settle(batch, 0.0)
        assert len(table.requests) == left_open


@pytest.mark.parametrize("part", ["headers", "chunks", "cancel_ids"])
def test_a_message_full_of_errors_does_not_become_as_many_answers(part: str) -> None:
    table = Table(max_open_requests=4)
    senseless = {
        "headers": StreamRequest(headers=[header(id, (-1,)) for id in range(1, 100)]),
        "chunks": StreamRequest(chunks=[chunk(id, 0, [1.0]) for id in range(1, 100)]),
        "cancel_ids": StreamRequest(cancel_ids=list(range(1, 100))),
    }
    with pytest.raises(InvalidArgument, match="more than 8 errors") as error:
        table.requests.handle(senseless[part], 0.0)
    assert error.value.reason is Reason.MESSAGE_MALFORMED
