from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from mse_grad.codec import Chunk, Result
from mse_grad.reasons import Reason
from mse_grad.tensor import Array, little_endian_bytes
from mse_grad_client.errors import Cancelled, InternalError
from mse_grad_client.request import GradientRequest
from mse_grad_client.shared_memory.allocator import Allocator
from mse_grad_client.shared_memory.shared_exchange import CopySlot, SharedExchange, SharedTensor
from mse_grad_client.stream.exchange import Exchange
from support.values import expected, operands

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory without a name needs Linux")

COUNT = 10


class Worker:
    """Computes the chunks of exchanges in place, as a server would."""

    def __init__(self) -> None:
        self.allocator = Allocator()
        self.given = operands((COUNT,))
        self.recalled: list[SharedExchange] = []

    @property
    def withdrawals(self) -> int:
        return self.allocator.withdrawals

    async def done(self, exchange: SharedExchange) -> None:
        return

    def recall(self, exchange: SharedExchange) -> None:
        self.recalled.append(exchange)

    def exchange(self, *, copied: bool = False, scalar_dout: bool = False) -> SharedExchange:
        """Returns a request for ten elements: all in shared memory, or copied through two slots of four."""
        predict, label, dout = self.given
        self.out = np.empty(COUNT, np.float32) if copied else self.allocator.empty(COUNT, np.float32)
        if not copied:
            predict, label, dout = (self.shared(array) for array in self.given)
        request = GradientRequest.prepare(
            predict, label, dout[:1] if scalar_dout else dout, "sum", out=self.out, numel=0
        )
        tensors = [request.predict, request.label, *([] if scalar_dout else [request.dout]), request.y]
        *shared, y = (self.tensor(contents) for contents in tensors)
        made = SharedExchange(
            request,
            request_id="mine",
            deadline=None,
            operands=shared,
            y=y,
            chunk_elements=4 if copied else COUNT,
            slots=2 if copied else 1,
            memory=self,
            withdrawals=self.withdrawals,
        )
        made.copy_first_chunks()
        return made

    def shared(self, values: Array) -> Array:
        array = self.allocator.empty(values.shape, values.dtype)
        array[...] = values
        return array

    def tensor(self, contents: memoryview) -> SharedTensor:
        place = self.allocator.find(contents)
        slots = [] if place else [self.slot() for _ in range(2)]
        return SharedTensor(contents, place, slots)

    def slot(self) -> CopySlot:
        contents = self.allocator.empty(16, np.uint8)
        place = self.allocator.find(contents.data)
        assert place is not None
        return CopySlot(contents, place)

    def compute(self, chunk: Chunk, *, dout: Array | None = None) -> Result:
        """Writes the gradient of a chunk to the place that the chunk names."""
        shared = chunk.shared
        assert shared is not None
        assert (chunk.predict, chunk.label, chunk.dout) == (b"", b"", b"")
        x = self.at(shared.predict_segment, shared.predict_offset, shared.elements)
        t = self.at(shared.label_segment, shared.label_offset, shared.elements)
        g = self.at(shared.dout_segment, shared.dout_offset, shared.elements) if dout is None else dout
        self.at(shared.y_segment, shared.y_offset, shared.elements)[...] = expected(x, t, g, "sum")
        return Result(chunk.id, chunk.offset, b"")

    def at(self, number: int, offset: int, count: int) -> Array:
        (segment,) = (segment for segment in self.allocator.segments if segment.number == number)
        return np.frombuffer(segment.contents, np.float32, count, offset)


@pytest.fixture
def worker() -> Iterator[Worker]:
    made = Worker()
    yield made
    made.allocator.close()


def test_shared_tensors_go_in_one_chunk_and_are_there_with_its_answer(worker: Worker) -> None:
    exchange = worker.exchange()
    (chunk,) = exchange.first_chunks(1)
    assert exchange.next_chunk(1) is None
    assert exchange.receive(worker.compute(chunk))
    exchange.wait()
    assert exchange.is_complete
    assert worker.out.tobytes() == expected(*worker.given, "sum").tobytes()


def test_other_tensors_are_copied_chunk_by_chunk_through_the_slots(worker: Worker) -> None:
    exchange = worker.exchange(copied=True)
    first, second = exchange.first_chunks(1)
    assert exchange.next_chunk(1) is None
    assert not exchange.receive(worker.compute(first))
    exchange.wait()
    exchange.advance()
    third = exchange.next_chunk(1)
    assert third is not None
    assert [(chunk.offset, chunk.shared.elements) for chunk in (first, second, third) if chunk.shared] == [
        (0, 4),
        (4, 4),
        (8, 2),
    ]
    assert third.shared is not None
    assert first.shared is not None
    assert third.shared.predict_offset == first.shared.predict_offset
    assert not exchange.receive(worker.compute(second))
    assert exchange.receive(worker.compute(third))
    exchange.wait()
    exchange.advance()
    assert exchange.is_complete
    assert worker.out.tobytes() == expected(*worker.given, "sum").tobytes()


@pytest.mark.parametrize("copied", [False, True], ids=["shared", "copied"])
def test_a_scalar_dout_is_in_the_header(worker: Worker, copied: bool) -> None:
    exchange = worker.exchange(copied=copied, scalar_dout=True)
    scalar = worker.given[2][:1]
    assert exchange.header(1).scalar_dout == little_endian_bytes(scalar)
    chunks = list(exchange.first_chunks(1))
    assert all(chunk.shared is not None and not chunk.shared.dout_segment for chunk in chunks)
    for chunk in chunks:
        exchange.receive(worker.compute(chunk, dout=scalar))


@pytest.mark.parametrize("result", [Result(1, 0, b"1234"), Result(1, 4, b"")], ids=["elements", "another offset"])
def test_an_answer_against_the_contract_is_an_internal_error(worker: Worker, result: Result) -> None:
    exchange = worker.exchange()
    list(exchange.first_chunks(1))
    assert exchange.receive(result)
    with pytest.raises(InternalError, match="in shared memory") as raised:
        exchange.wait()
    assert raised.value.request_id == "mine"


def test_an_answer_without_a_chunk_is_ignored_once_the_request_is_abandoned(worker: Worker) -> None:
    exchange = worker.exchange()
    assert not exchange.receive(Result(1, 0, b""))
    exchange.abandon()
    assert exchange.receive(Result(1, 0, b""))


def test_the_server_is_done_with_an_abandoned_request_once_it_has_answered_each_chunk(worker: Worker) -> None:
    exchange = worker.exchange(copied=True)
    first, second = exchange.first_chunks(1)
    exchange.abandon()
    before = worker.out.tobytes()
    assert not exchange.receive(worker.compute(first))
    assert not exchange.wait_server_done(0)
    assert exchange.receive(worker.compute(second))
    assert exchange.wait_server_done(0)
    assert worker.out.tobytes() == before


def test_the_server_is_done_with_a_request_that_it_failed(worker: Worker) -> None:
    exchange = worker.exchange(copied=True)
    list(exchange.first_chunks(1))
    assert not exchange.wait_server_done(0)
    exchange.server_done()
    exchange.fail(Cancelled("no", reason=Reason.CANCELLED))
    assert exchange.wait_server_done(0)
    with pytest.raises(Cancelled):
        exchange.wait()
    with pytest.raises(Cancelled):
        exchange.advance()


def test_memory_that_the_server_may_still_write_to_is_recalled_once(worker: Worker) -> None:
    exchange = worker.exchange()
    list(exchange.first_chunks(1))
    exchange.revoke()
    exchange.revoke()
    assert worker.recalled == [exchange]


@pytest.mark.parametrize("sent", [False, True], ids=["never sent", "answered"])
def test_memory_that_the_server_no_longer_writes_to_is_not_recalled(worker: Worker, sent: bool) -> None:
    exchange = worker.exchange()
    if sent:
        (chunk,) = exchange.first_chunks(1)
        exchange.receive(worker.compute(chunk))
    exchange.revoke()
    assert worker.recalled == []


def test_a_request_knows_that_memory_was_withdrawn_since_it_began(worker: Worker) -> None:
    exchange = worker.exchange()
    assert not exchange.is_cut_off
    worker.allocator.withdraw([])
    assert exchange.is_cut_off
    assert not worker.exchange().is_cut_off


def test_an_exchange_that_is_interrupted_while_it_is_made_can_be_revoked(monkeypatch: pytest.MonkeyPatch) -> None:
    worker = Worker()
    begun: list[Exchange] = []
    begin = Exchange.__init__

    def interrupted(exchange: Exchange, *arguments: Any, **options: Any) -> None:
        begin(exchange, *arguments, **options)
        begun.append(exchange)
        raise KeyboardInterrupt

    monkeypatch.setattr(Exchange, "__init__", interrupted)
    with pytest.raises(KeyboardInterrupt):
        worker.exchange()
    begun[0].revoke()
    assert begun[0].needs_caller()
    assert worker.recalled == []
