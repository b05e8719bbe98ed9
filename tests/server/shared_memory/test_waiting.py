"""Requests in shared memory beyond --max-in-flight-bytes: they wait for the others instead of being refused."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest
from google.rpc import error_details_pb2

from mse_grad.codec import Chunk, Header, SharedRange
from mse_grad.reasons import Reason
from mse_grad_server.errors import Draining
from support.same_host.handover import RawHandover, SharedBytes
from support.same_host.packets import RawPackets, open_packets
from support.server.raw_stream import RawStream, chunk, detail, gradient, header, operands, reason_of
from support.server.server_in_loop import Serving, serving

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory is handed over on Linux alone")

KIB, MIB = 2**10, 2**20
# A request takes 384 KiB of the bound of 1 MiB, so two are admitted at a time.
ELEMENTS = 2**15
SIZE_BYTES = 4 * ELEMENTS
REQUEST_BYTES = 3 * SIZE_BYTES
LIMITS: dict[str, Any] = {
    **dict.fromkeys(("max_in_flight_bytes", "max_unary_bytes", "max_stream_message_bytes"), MIB),
    "chunk_bytes": SIZE_BYTES,
    "inline_bytes": 0,
    "compute_threads": 1,
}
VALUES = np.linspace(-2, 3, ELEMENTS, dtype=np.float32)


class Neighbour:
    """A client of the same host, with the operands of `VALUES` in its memory."""

    def __init__(self, stream: RawStream, packets: RawPackets, handover: RawHandover, memory: SharedBytes) -> None:
        self.stream = stream
        self.packets = packets
        self.handover = handover
        self._memory = memory

    async def send(self, id: int, *, elements: int = ELEMENTS, **fields: Any) -> None:
        """Sends a whole request of the first `elements` of the operands."""
        await self.packets.send([header(id, (elements,), **fields)], [self.chunk(id, 0, elements)])

    def chunk(self, id: int, offset: int, elements: int) -> Chunk:
        """Returns a chunk from element `offset` on, whose gradient goes to the same elements of y."""
        at = 4 * offset
        places = (1, at, 1, SIZE_BYTES + at, 1, 2 * SIZE_BYTES + at, 1, 3 * SIZE_BYTES + at)
        return Chunk(id, offset, b"", b"", b"", SharedRange(elements, *places))

    async def answered(self, count: int = 1) -> list[int]:
        """Returns the ids of the next `count` answers."""
        ids: list[int] = []
        while len(ids) < count:
            response = await self.packets.receive()
            assert not response.errors, response.errors
            ids += [result.id for result in response.results]
        return ids

    async def failed(self) -> tuple[int, Reason]:
        """Returns id and reason of the one error in the next message."""
        id, _, reason, _ = await self.packets.receive_error()
        return id, reason

    def assert_gradient(self, elements: int = ELEMENTS) -> None:
        """Asserts that y holds the gradient of the first `elements`."""
        y = self._memory.get(3 * SIZE_BYTES, elements, np.dtype(np.float32))
        assert y.tobytes() == gradient(VALUES[:elements]).tobytes()


@asynccontextmanager
async def neighbour(server: Serving) -> AsyncIterator[Neighbour]:
    stream = server.raw_stream()
    opened = (await stream.opened()).opened
    assert opened is not None
    with RawHandover(opened) as handover, SharedBytes(4 * SIZE_BYTES) as memory:
        for at, values in enumerate(operands(VALUES)):
            memory.put(at * SIZE_BYTES, values)
        assert not (await handover.hand_over([1], [memory.descriptor])).status.code
        with RawHandover(opened) as asking:
            yield Neighbour(stream, await open_packets(asking), handover, memory)


async def fill(server: Serving, client: Neighbour) -> None:
    """Sends requests 1 and 2, which take up the bound and do not end before the backend's gate is open."""
    server.backend.gate.clear()
    for id in (1, 2):
        await client.send(id)
    await server.until(lambda: server.metric("mse_grad_in_flight_bytes") == 2 * REQUEST_BYTES)


async def wait_for(server: Serving, requests: int) -> None:
    """Waits until so many requests are in flight or wait."""
    await server.until(lambda: server.metric("mse_grad_in_flight_requests") == requests)


async def test_requests_beyond_the_bound_wait_and_begin_in_the_order_of_their_arrival() -> None:
    async with serving(**LIMITS, admission_wait_s=60) as server, neighbour(server) as one, neighbour(server) as two:
        await fill(server, one)
        sizes = [ELEMENTS - waiting for waiting in range(1, 7)]
        for number, elements in enumerate(sizes):
            await (one, two)[number % 2].send(3 + number, elements=elements)
            await wait_for(server, 3 + number)
        assert server.metric("mse_grad_in_flight_bytes") == 2 * REQUEST_BYTES
        server.backend.gate.set()
        assert await one.answered(5) == [1, 2, 3, 5, 7]
        assert await two.answered(3) == [4, 6, 8]
        assert server.backend.computed_sizes == [ELEMENTS, ELEMENTS, *sizes]
        assert server.metric("mse_grad_refusals_total", reason="SERVER_BUSY") == 0
        two.assert_gradient(sizes[-1])


async def test_a_small_request_does_not_overtake_a_large_one_that_waits() -> None:
    async with serving(**LIMITS, admission_wait_s=60) as server, neighbour(server) as client:
        await fill(server, client)
        await client.send(3)
        await client.send(4, elements=8)
        await wait_for(server, 4)
        assert server.metric("mse_grad_in_flight_bytes") == 2 * REQUEST_BYTES
        server.backend.gate.set()
        assert await client.answered(4) == [1, 2, 3, 4]


async def test_requests_in_messages_do_not_wait_for_those_in_shared_memory() -> None:
    async with serving(**LIMITS, admission_wait_s=60) as server, neighbour(server) as client:
        await fill(server, client)
        await client.send(3)
        stream = await server.stream()
        await stream.send([header(1, (ELEMENTS,))], [chunk(1, 0, VALUES)])
        await server.until(lambda: server.metric("mse_grad_in_flight_bytes") == 3 * REQUEST_BYTES)
        server.backend.gate.set()
        assert (await stream.receive_gradient(1, ELEMENTS)).tobytes() == gradient(VALUES).tobytes()
        assert await client.answered(3) == [1, 2, 3]


async def test_requests_in_messages_take_no_room_from_those_in_shared_memory() -> None:
    async with serving(**LIMITS) as server, neighbour(server) as client:
        stream = await server.stream()
        await stream.send([header(id, (ELEMENTS,)) for id in (1, 2)])
        await server.until(lambda: server.metric("mse_grad_in_flight_bytes") == 2 * REQUEST_BYTES)
        await client.send(1)
        assert await client.answered() == [1]
        await stream.send(cancel_ids=[1, 2])
        assert len((await stream.receive()).errors) == 2


async def test_a_request_that_waited_as_long_as_it_may_is_refused_and_told_when_to_retry() -> None:
    async with serving(**LIMITS, admission_wait_s=3) as server, neighbour(server) as client:
        await fill(server, client)
        await client.send(3)
        await wait_for(server, 3)
        server.clock.advance(2)
        await client.send(4)
        await wait_for(server, 4)
        server.clock.advance(1)
        await wait_for(server, 3)
        assert server.metric("mse_grad_refusals_total", reason="SERVER_BUSY") == 1
        server.backend.gate.set()
        ids: list[int] = []
        while len(ids) < 3:
            response = await client.packets.receive()
            ids += [result.id for result in response.results]
            for error in response.errors:
                assert (error.id, reason_of(error.status)) == (3, Reason.SERVER_BUSY)
                assert detail(error.status, error_details_pb2.RetryInfo).retry_delay.ToMilliseconds() > 0
        assert ids == [1, 2, 4]


async def test_a_request_that_may_not_wait_is_refused_at_once() -> None:
    async with serving(**LIMITS, admission_wait_s=0) as server, neighbour(server) as client:
        await fill(server, client)
        await client.send(3)
        await wait_for(server, 3)
        server.clock.advance(0)  # the next turn of the loop
        assert server.metric("mse_grad_refusals_total", reason="SERVER_BUSY") == 1
        server.backend.gate.set()


async def test_a_request_that_waits_ends_with_its_deadline_or_when_it_is_cancelled() -> None:
    async with serving(**LIMITS, admission_wait_s=60) as server, neighbour(server) as one, neighbour(server) as two:
        await fill(server, one)
        await two.send(1, time_left_us=1_000_000)
        await two.send(2)
        await wait_for(server, 4)
        server.clock.advance(1)
        assert await two.failed() == (1, Reason.DEADLINE_EXCEEDED)
        await two.packets.send(cancel_ids=[2])
        assert await two.failed() == (2, Reason.CANCELLED)
        assert server.metric("mse_grad_in_flight_requests") == 2
        server.backend.gate.set()
        assert await one.answered(2) == [1, 2]
        assert server.backend.computed_sizes == [ELEMENTS] * 2


async def test_a_request_behind_one_that_fails_while_it_waits_begins_if_it_fits() -> None:
    roomier = {**LIMITS, "max_in_flight_bytes": 1200 * KIB}  # of which one client may have 900 KiB
    async with serving(**roomier, admission_wait_s=60) as server, neighbour(server) as client:
        await fill(server, client)
        await client.send(3)
        await client.send(4, elements=8)
        await wait_for(server, 4)
        await client.packets.send(cancel_ids=[3])
        await server.until(lambda: server.metric("mse_grad_in_flight_bytes") == 2 * REQUEST_BYTES + 96)
        server.backend.gate.set()


async def test_the_requests_of_a_client_that_leaves_no_longer_wait() -> None:
    async with serving(**LIMITS, admission_wait_s=60) as server, neighbour(server) as one, neighbour(server) as two:
        await fill(server, one)
        await two.stream.send([header(1, (ELEMENTS,))], [two.chunk(1, 0, ELEMENTS)])
        await wait_for(server, 3)
        two.stream.call.cancel()
        await wait_for(server, 2)
        server.backend.gate.set()
        assert await one.answered(2) == [1, 2]


async def test_a_client_that_has_said_all_still_gets_the_answers_that_wait() -> None:
    async with serving(**LIMITS, admission_wait_s=60) as server, neighbour(server) as one, neighbour(server) as two:
        await fill(server, one)
        await two.stream.send([header(1, (ELEMENTS,))], [two.chunk(1, 0, ELEMENTS)])
        await wait_for(server, 3)
        await two.stream.call.done_writing()
        server.backend.gate.set()
        assert [result.id for result in (await two.stream.receive()).results] == [1]
        await two.stream.receive_end()
        two.assert_gradient()


async def test_memory_that_is_withdrawn_while_its_request_waits_is_not_touched() -> None:
    async with serving(**LIMITS, admission_wait_s=60) as server, neighbour(server) as one, neighbour(server) as two:
        await fill(server, one)
        await two.send(1)
        await wait_for(server, 3)
        assert not (await two.handover.hand_over(withdrawn=[1])).status.code
        server.backend.gate.set()
        assert await two.failed() == (1, Reason.SEGMENT_UNKNOWN)
        assert await one.answered(2) == [1, 2]


async def test_the_server_holds_no_operands_and_few_chunks_of_a_request_that_waits() -> None:
    async with serving(**LIMITS, admission_wait_s=60) as server, neighbour(server) as one, neighbour(server) as two:
        await fill(server, one)
        await two.packets.send([header(1, (ELEMENTS,))], [two.chunk(1, 0, 8), chunk(1, 8, VALUES[:8])])
        assert await two.failed() == (1, Reason.SERVER_BUSY)
        await two.packets.send([header(2, (ELEMENTS,))], [two.chunk(2, at, 1) for at in range(8)])
        await wait_for(server, 3)
        await two.packets.send(chunks=[two.chunk(2, 8, 1)])
        assert await two.failed() == (2, Reason.SERVER_BUSY)
        server.backend.gate.set()
        assert await one.answered(2) == [1, 2]


async def test_few_requests_wait_at_a_time() -> None:
    async with (
        serving(**LIMITS, admission_wait_s=60, max_open_requests=2) as server,
        neighbour(server) as one,
        neighbour(server) as two,
        neighbour(server) as three,
    ):
        await fill(server, one)
        await two.send(1)
        await two.send(2)
        await wait_for(server, 4)
        await three.send(1)
        assert await three.failed() == (1, Reason.SERVER_BUSY)
        server.backend.gate.set()
        assert await two.answered(2) == [1, 2]


async def test_chunks_that_come_while_the_request_waits_are_computed_in_order() -> None:
    async with serving(**LIMITS, admission_wait_s=60) as server, neighbour(server) as one, neighbour(server) as two:
        await fill(server, one)
        await two.packets.send([header(1, (ELEMENTS,))], [two.chunk(1, 0, 1000)])
        await two.packets.send(chunks=[two.chunk(1, 1000, 2000)])
        await wait_for(server, 3)
        server.backend.gate.set()
        assert await two.answered(2) == [1, 1]
        await two.packets.send(chunks=[two.chunk(1, 3000, ELEMENTS - 3000)])
        assert await two.answered() == [1]
        two.assert_gradient()


async def test_the_headers_of_a_message_with_very_many_requests_know_that_they_may_wait() -> None:
    async with serving(**LIMITS, admission_wait_s=60) as server, neighbour(server) as one, neighbour(server) as two:
        await fill(server, one)
        ids = range(1, 51)  # headers and chunks are handled in several turns
        headers: list[Header] = [header(id, (8,)) for id in ids]
        await two.packets.send(headers, [two.chunk(id, 0, 8) for id in ids])
        await wait_for(server, 52)
        server.backend.gate.set()
        assert await two.answered(50) == list(ids)


async def test_a_silent_client_gives_its_bytes_to_requests_that_wait() -> None:
    async with (
        serving(**LIMITS, admission_wait_s=60, give_way_s=2) as server,
        neighbour(server) as silent,
        neighbour(server) as honest,
    ):
        for id in (1, 2):
            await silent.packets.send([header(id, (ELEMENTS,))], [silent.chunk(id, 0, 8)])
        assert await silent.answered(2) == [1, 2]
        await honest.send(1)
        await wait_for(server, 3)
        server.clock.advance(2)
        await honest.send(2)
        assert await honest.answered(2) == [1, 2]
        errors = (await silent.packets.receive()).errors
        assert [(error.id, reason_of(error.status)) for error in errors] == [
            (1, Reason.SERVER_BUSY),
            (2, Reason.SERVER_BUSY),
        ]


async def test_a_server_that_drains_still_answers_the_requests_that_wait() -> None:
    async with serving(**LIMITS, admission_wait_s=60) as server, neighbour(server) as client:
        await fill(server, client)
        await client.send(3)
        await wait_for(server, 3)
        server.server._engine._streams.drain(Draining("the server ends"))
        server.backend.gate.set()
        ids: list[int] = []
        last_id = 0
        while not (ids == [1, 2, 3] and last_id):
            response = await client.packets.receive()
            ids += [result.id for result in response.results]
            last_id = last_id if response.go_away is None else response.go_away.last_id
        assert last_id == 3
