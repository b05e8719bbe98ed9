"""A client with many streams beside a client with one: how long the latter waits, in computations of the former."""

from __future__ import annotations

import asyncio
import io
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from typing_extensions import override

from mse_grad.codec import encode_stream_request
from mse_grad_server.backends.base import Gradient
from mse_grad_server.engine.engine import Engine, EngineLimits
from mse_grad_server.engine.shares import Share
from mse_grad_server.metrics.collectors import TransferCounter
from mse_grad_server.metrics.recorder import Recorder
from mse_grad_server.metrics.registry import Metrics
from mse_grad_server.process.log import open_log
from mse_grad_server.rpc.stream.limits import StreamLimits
from mse_grad_server.rpc.stream.stream import Stream
from mse_grad_server.settings.model import Settings
from support.server.fakes import FakeBackend, FakeClock
from support.server.raw_stream import chunk, gradient, header
from support.server.server_in_loop import Serving, serving
from support.waiting import PATIENCE_S

GREEDY, MODEST = 8, 3  # elements of a request
STREAMS = 64


def request(id: int, elements: int) -> bytes:
    return encode_stream_request([header(id, (elements,))], [chunk(id, 0, [1.0] * elements)])


class Client:
    """Context of a stream. A greedy client has its next request ready in the turn of the loop after the last one."""

    def __init__(self, *, is_greedy: bool) -> None:
        self._is_greedy = is_greedy
        self._id = 0
        self._reading: asyncio.Future[Any] | None = None
        self.answered = asyncio.Semaphore(0)
        self.reads = 0

    def read(self) -> asyncio.Future[Any]:
        self.reads += 1
        self._reading = asyncio.get_running_loop().create_future()
        if self._is_greedy:
            asyncio.get_running_loop().call_soon(self.send, GREEDY)
        return self._reading

    def send(self, elements: int) -> None:
        reading = self._reading
        if reading is not None and not reading.done():
            self._id += 1
            reading.set_result(request(self._id, elements))

    def write(self, message: bytes) -> asyncio.Future[None]:
        self.answered.release()
        written: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        written.set_result(None)
        return written


class Found(NamedTuple):
    """What `crowded` saw.

    Attributes:
        waits: How many of the greedy client's requests were computed before each of the modest client's.
        reads: How many reads of the greedy client began in each turn of the loop.
    """

    waits: list[int]
    reads: list[int]


async def crowded(share_of: Callable[[Engine, str], Share], *, rounds: int) -> Found:
    """Serves one stream of a client beside 64 of another."""
    settings = Settings()
    backend, clock, metrics = FakeBackend(), FakeClock(), Metrics()
    engine = Engine(backend, metrics, EngineLimits.of(settings))
    engine.set_ready(inline_bytes=settings.inline_bytes)
    recorder = Recorder(metrics, open_log("error", "json", stream=io.StringIO()), logs_every_request=False)

    def serve(client: Client, share: Share) -> asyncio.Task[None]:
        limits, counter = StreamLimits.of(settings), TransferCounter()
        stream = Stream(client, engine, share, recorder, clock, limits, name="s", transferred=counter)
        return asyncio.get_running_loop().create_task(stream.run(b""))

    modest = Client(is_greedy=False)
    running = [serve(modest, share_of(engine, "modest"))]
    greedy = [Client(is_greedy=True) for _ in range(STREAMS)]
    running += [serve(client, share_of(engine, "greedy")) for client in greedy]
    found = Found([], [])
    try:
        for _ in range(rounds):
            for _ in range(2 * STREAMS):
                before = sum(client.reads for client in greedy)
                await asyncio.sleep(0)
                found.reads.append(sum(client.reads for client in greedy) - before)
            before = len(backend.computed_sizes)
            modest.send(MODEST)
            await modest.answered.acquire()
            found.waits.append(backend.computed_sizes[before:].index(MODEST))
    finally:
        for task in running:
            task.cancel()
        await asyncio.wait(running)
        engine.close()
    return found


async def test_small_requests_of_64_streams_are_read_and_computed_one_in_each_turn_of_the_loop() -> None:
    found = await crowded(lambda engine, name: engine.shares.enter(name), rounds=100)
    # One may be under way when the request comes, and one comes before it in its turn of the loop.
    assert max(found.waits) <= 2
    # gRPC copies all messages whose reads have begun in one turn of the loop.
    assert max(found.reads) == 1
    assert sum(found.waits) > 0, "the other client was idle"


async def test_without_turns_a_request_waits_for_all_of_them() -> None:
    found = await crowded(lambda engine, name: Share(name), rounds=9)
    assert sorted(found.waits)[4] > STREAMS // 2
    assert max(found.reads) == STREAMS


def tokens(folder: Path) -> str:
    file = folder / "tokens"
    file.write_text("a-token-of-the-greedy-one name=greedy\na-token-of-the-modest-one name=modest\n")
    return str(file)


def as_client(name: str) -> dict[str, Any]:
    return {"metadata": (("authorization", f"Bearer a-token-of-the-{name}-one"),)}


async def queued(server: Serving, count: int) -> None:
    """Waits until so many messages wait for a thread."""
    await server.until(lambda: server.metric("mse_grad_queued_messages") == count)


class SteppedBackend(FakeBackend):
    """Backend that computes one gradient for each step that the test allows: a clock of computations."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: threading.Semaphore | None = None

    @override
    def compute(self, gradient: Gradient) -> None:
        if self.steps is not None:
            assert self.steps.acquire(timeout=PATIENCE_S)
        super().compute(gradient)


async def test_large_requests_of_64_streams_delay_another_client_by_the_one_that_runs(tmp_path: Path) -> None:
    backend, rounds = SteppedBackend(), 20
    async with serving(backend=backend, token_file=tokens(tmp_path), inline_bytes=0, compute_threads=1) as server:
        greedy = [await server.stream(**as_client("greedy")) for _ in range(STREAMS)]
        modest = await server.stream(**as_client("modest"))
        steps = backend.steps = threading.Semaphore(0)
        for stream in greedy:
            await stream.send_bytes(request(1, GREEDY))
        await queued(server, STREAMS - 1)  # one runs
        for id in range(1, rounds + 1):
            before = len(backend.computed_sizes)
            await modest.send_bytes(request(id, MODEST))
            await queued(server, STREAMS - id + 1)
            # Alone the request would take one step, its own. The one that runs takes another: twice as long at most.
            steps.release(2)
            y = await modest.receive_gradient(id, MODEST)
            assert y.tobytes() == gradient([1.0] * MODEST).tobytes()
            assert backend.computed_sizes[before:] == [GREEDY, MODEST]
            await queued(server, STREAMS - id - 1)  # the next of the greedy client runs
        steps.release(STREAMS)
        for stream in greedy:
            await stream.receive_gradient(1, GREEDY)


async def test_a_client_that_fills_its_share_of_the_bytes_does_not_have_another_one_refused(tmp_path: Path) -> None:
    mib = 2**20
    bound: dict[str, Any] = {"max_in_flight_bytes": 16 * mib, "max_unary_bytes": 16 * mib, "inline_bytes": 0}
    values = np.ones(2**18, np.float32)
    async with serving(token_file=tokens(tmp_path), **bound) as server:
        greedy = [await server.stream(**as_client("greedy")) for _ in range(8)]
        modest = await server.stream(**as_client("modest"))
        server.backend.gate.clear()
        for stream in greedy:
            await stream.send([header(1, (values.size,))], [chunk(1, 0, values)])
        await server.until(lambda: server.metric("mse_grad_refusals_total", reason="SERVER_BUSY") == 4)
        assert server.metric("mse_grad_caller_in_flight_requests", caller="greedy") == 4
        assert server.metric("mse_grad_caller_in_flight_bytes", caller="greedy") == 12 * mib
        await modest.send([header(1, (values.size,))], [chunk(1, 0, values)])
        await server.until(lambda: server.metric("mse_grad_caller_in_flight_bytes", caller="modest") == 3 * mib)
        server.backend.gate.set()
        assert (await modest.receive_gradient(1, values.size)).size == values.size
