"""Reads and writes of a stream, in a context that the test controls."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest

from mse_grad.codec import Chunk, StreamResponse, decode_stream_response, encode_stream_request
from mse_grad.reasons import Reason
from mse_grad_server.engine.engine import Engine, EngineLimits
from mse_grad_server.engine.shares import Share
from mse_grad_server.errors import DeadlineExceeded
from mse_grad_server.metrics.collectors import TransferCounter
from mse_grad_server.metrics.recorder import Recorder
from mse_grad_server.metrics.registry import Metrics
from mse_grad_server.process.log import open_log
from mse_grad_server.rpc.stream.limits import StreamLimits
from mse_grad_server.rpc.stream.stream import Stream
from mse_grad_server.settings.model import Settings
from support.server.fakes import FakeBackend, FakeClock
from support.server.raw_stream import chunk, header


class FakeContext:
    """Reads and writes that end when the test decides."""

    def __init__(self) -> None:
        self.reads: asyncio.Queue[asyncio.Future[Any]] = asyncio.Queue()
        self.writes: asyncio.Queue[tuple[StreamResponse, asyncio.Future[None]]] = asyncio.Queue()

    def read(self) -> asyncio.Future[Any]:
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.reads.put_nowait(future)
        return future

    def write(self, message: bytes) -> asyncio.Future[None]:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.writes.put_nowait((decode_stream_response(message), future))
        return future

    async def written(self) -> StreamResponse:
        """Completes the next write and returns its message."""
        response, future = await asyncio.wait_for(self.writes.get(), 20)
        future.set_result(None)
        return response

    async def deliver(self, message: Any) -> None:
        """Completes the next read."""
        (await asyncio.wait_for(self.reads.get(), 20)).set_result(message)


class Flow:
    def __init__(self, settings: Settings) -> None:
        self.backend = FakeBackend()
        self.clock = FakeClock()
        self.context = FakeContext()
        self.metrics = Metrics()
        self.engine = Engine(self.backend, self.metrics, EngineLimits.of(settings))
        self.engine.set_ready(inline_bytes=settings.inline_bytes)
        recorder = Recorder(self.metrics, open_log("info", "json", stream=io.StringIO()), logs_every_request=False)
        stream = Stream(
            self.context,
            self.engine,
            Share(),
            recorder,
            self.clock,
            StreamLimits.of(settings),
            name="test",
            transferred=TransferCounter(),
        )
        self.running = asyncio.ensure_future(stream.run(b""))


@asynccontextmanager
async def flowing(**settings: Any) -> AsyncIterator[Flow]:
    flow = Flow(Settings(**settings))
    try:
        yield flow
    finally:
        flow.backend.gate.set()
        flow.running.cancel()
        await asyncio.wait([flow.running])
        flow.engine.close()
    assert (flow.engine.in_flight_requests, flow.engine.in_flight_bytes, flow.clock.pending) == (0, 0, 0)


async def settled() -> None:
    """Runs the event loop until every task waits for the test."""
    for _ in range(20):
        await asyncio.sleep(0)


def message(*chunks: Chunk, opens: int = 0, count: int = 0) -> bytes:
    return encode_stream_request([header(opens, (count,))] if opens else [], chunks)


async def test_an_answer_that_comes_while_the_writer_ends_is_written() -> None:
    async with flowing() as flow:
        context = flow.context
        await context.deliver(message(chunk(1, 0, [1.0]), opens=1, count=3))
        _, first_write = await context.writes.get()
        read = await context.reads.get()
        # Both end in one turn of the loop: the writer finds nothing more, then the reader adds the second answer.
        first_write.set_result(None)
        read.set_result(message(chunk(1, 1, [2.0])))
        (result,) = (await context.written()).results
        assert result.offset == 1


async def test_reading_goes_on_while_an_answer_is_written_and_stops_at_the_window() -> None:
    async with flowing(chunk_bytes=1024, window_chunks=3) as flow:
        context = flow.context
        values = np.ones(256, np.float32)  # 1024 bytes: with its gradient a third of the window
        await context.deliver(message(chunk(1, 0, values), opens=1, count=256 * 100))
        for index in range(1, 3):
            await context.deliver(message(chunk(1, 256 * index, values)))
        await settled()
        assert context.reads.empty(), "it continues to read with a whole window unanswered"
        (result,) = (await context.written()).results
        assert result.offset == 0
        await context.deliver(message(chunk(1, 256 * 3, values)))  # now there is room for another chunk


async def test_reading_stops_while_many_tiny_chunks_wait_for_a_thread() -> None:
    async with flowing(chunk_bytes=2**15, window_chunks=1, inline_bytes=0, compute_threads=1) as flow:
        context = flow.context
        flow.backend.gate.clear()
        await context.deliver(message(chunk(1, 0, [1.0]), opens=1, count=1000))
        await settled()
        read = 1
        while not context.reads.empty() and read < 1000:
            await context.deliver(message(chunk(1, read, [1.0])))
            await settled()
            read += 1
        # The window has 128 KiB. Each message that waits holds about 6 KiB, its job among them.
        assert read <= 128 // 6 + 1, "it continues to read"
        flow.backend.gate.set()
        await context.written()
        await context.deliver(message(chunk(1, read, [1.0])))


async def test_small_answers_that_wait_together_are_written_together() -> None:
    async with flowing() as flow:
        context = flow.context
        await context.deliver(message(chunk(1, 0, [1.0]), opens=1, count=10))
        for offset in (1, 2, 3):
            await context.deliver(message(chunk(1, offset, [1.0])))
        await settled()
        assert [result.offset for result in (await context.written()).results] == [0]
        assert [result.offset for result in (await context.written()).results] == [1, 2, 3]


async def test_small_gradients_one_after_another_need_no_task() -> None:
    async with flowing() as flow:
        context = flow.context
        before = asyncio.all_tasks()
        for id in range(1, 4):
            await context.deliver(message(chunk(id, 0, [1.0]), opens=id, count=1))
            await settled()
            assert asyncio.all_tasks() == before
            assert context.reads.empty(), "it reads the next request before the answer is on its way"
            (result,) = (await context.written()).results
            assert result.id == id


async def test_a_client_that_reads_no_answers_ends_its_stream() -> None:
    async with flowing(stall_timeout_s=40) as flow:
        context = flow.context
        await context.deliver(message(chunk(1, 0, [1.0]), opens=1, count=1))
        await context.writes.get()
        flow.clock.advance(39)
        await settled()
        assert not flow.running.done()
        flow.clock.advance(11)
        with pytest.raises(DeadlineExceeded, match="the client read no answer for 40 s"):
            await asyncio.wait_for(flow.running, 20)


async def test_a_request_without_chunks_fails_once_the_client_was_silent_for_long() -> None:
    async with flowing(stall_timeout_s=40) as flow:
        context = flow.context
        await context.deliver(message(chunk(1, 0, [1.0]), opens=1, count=3))
        await context.written()
        flow.clock.advance(30)
        await context.deliver(message(chunk(1, 1, [1.0])))
        await context.written()
        flow.clock.advance(39)
        await settled()
        assert context.writes.empty(), "progress was made 39 s ago"
        flow.clock.advance(11)
        (error,) = (await context.written()).errors
        assert error.id == 1
        assert "no chunk arrived for 40 s; 2 of 3 elements had arrived" in error.status.message
        await context.deliver(message(chunk(2, 0, [1.0]), opens=2, count=1))
        assert (await context.written()).results


async def test_a_slow_backend_is_not_mistaken_for_a_silent_client() -> None:
    async with flowing(stall_timeout_s=40, inline_bytes=0) as flow:
        flow.backend.gate.clear()
        await flow.context.deliver(message(chunk(1, 0, [1.0]), opens=1, count=2))
        assert await asyncio.to_thread(flow.backend.started.acquire, timeout=20)
        flow.clock.advance(1000)
        flow.backend.gate.set()
        (result,) = (await flow.context.written()).results
        assert result.offset == 0
        await flow.context.deliver(message(chunk(1, 1, [1.0])))
        (result,) = (await flow.context.written()).results
        assert result.offset == 1


async def test_a_deadline_runs_out_while_the_request_waits_for_chunks() -> None:
    async with flowing() as flow:
        context = flow.context
        late = header(1, (2,), time_left_us=1_500_000)
        await context.deliver(encode_stream_request([late], [chunk(1, 0, [1.0])]))
        await context.written()
        flow.clock.advance(1.4)
        await settled()
        assert context.writes.empty()
        flow.clock.advance(0.1)
        (error,) = (await context.written()).errors
        assert "ran out in the phase upload; 1 of 2 elements had arrived" in error.status.message


async def test_the_first_of_several_deadlines_counts() -> None:
    async with flowing() as flow:
        context = flow.context
        times_us = {1: 3_000_000, 2: 1_000_000, 3: 0, 4: 2_000_000}
        await context.deliver(
            encode_stream_request([header(id, (2,), time_left_us=t) for id, t in times_us.items()], [])
        )
        await settled()
        failed = []
        for _ in range(3):
            flow.clock.advance(1)
            failed += [error.id for error in (await context.written()).errors]
        assert failed == [2, 4, 1]


async def test_a_deadline_that_runs_out_in_the_queue_ends_its_request_alone() -> None:
    async with flowing(inline_bytes=0, compute_threads=1) as flow:
        context = flow.context
        flow.backend.gate.clear()
        await context.deliver(message(chunk(1, 0, [1.0]), opens=1, count=1))
        assert await asyncio.to_thread(flow.backend.started.acquire, timeout=20)
        late = header(2, (1,), time_left_us=1_000_000)
        await context.deliver(encode_stream_request([late, header(3, (1,))], [chunk(2, 0, [1.0]), chunk(3, 0, [3.0])]))
        await settled()
        flow.clock.advance(2)
        flow.backend.gate.set()
        results: list[int] = []
        errors: list[int] = []
        while len(results) + len(errors) < 3:
            response = await context.written()
            results += [result.id for result in response.results]
            errors += [error.id for error in response.errors]
        assert (results, errors) == ([1, 3], [2])
        assert flow.backend.computed_sizes == [1, 1]


async def test_a_request_whose_time_is_up_on_arrival_is_not_computed() -> None:
    async with flowing() as flow:
        await flow.context.deliver(encode_stream_request([header(1, (1,), time_left_us=-5)], [chunk(1, 0, [1.0])]))
        (error,) = (await flow.context.written()).errors
        assert error.status.code == Reason.DEADLINE_EXCEEDED.code.value[0]
        assert flow.backend.computed_sizes == []
