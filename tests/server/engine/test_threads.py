"""Compute threads and their queue; which job a thread runs is decided when it is free."""

from __future__ import annotations

import asyncio
import gc
import math
import threading
import time
import weakref
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from mse_grad_server.engine.threads import ComputeThreads
from mse_grad_server.metrics.registry import Metrics
from support.waiting import PATIENCE_S, until


@asynccontextmanager
async def blocked(metrics: Metrics | None = None) -> AsyncIterator[tuple[ComputeThreads, threading.Event]]:
    """Yields one thread with a job that ends once the event is set."""
    threads, gate, began = ComputeThreads(1, metrics or Metrics()), threading.Event(), threading.Event()

    def block() -> None:
        began.set()
        assert gate.wait(PATIENCE_S)

    running = threads.run(block, client=None, deadline_s=math.inf)
    assert await asyncio.to_thread(began.wait, PATIENCE_S)
    try:
        yield threads, gate
        gate.set()
        await running
    finally:
        gate.set()
        await asyncio.to_thread(threads.close)


async def test_a_client_with_many_jobs_delays_another_by_one() -> None:
    order: list[str] = []

    def job(name: str) -> Callable[[], None]:
        return lambda: order.append(name)

    async with blocked() as (threads, gate):
        waiting = [threads.run(job("greedy"), client="greedy", deadline_s=math.inf) for _ in range(64)]
        waiting += [threads.run(job("modest"), client="modest", deadline_s=math.inf) for _ in range(2)]
        gate.set()
        await asyncio.gather(*waiting)
    assert order[:4] == ["greedy", "modest", "greedy", "modest"]


async def test_the_jobs_of_one_client_run_by_their_deadlines() -> None:
    order: list[float] = []
    now_s = time.monotonic()
    deadlines_s = (math.inf, now_s + 0.9, now_s + 3600, now_s + 0.3)
    async with blocked() as (threads, gate):
        waiting = [
            threads.run(lambda at=deadline_s: order.append(at), client="one", deadline_s=deadline_s)  # type: ignore[misc]
            for deadline_s in deadlines_s
        ]
        gate.set()
        await asyncio.gather(*waiting)
    assert order == [deadlines_s[number] for number in (3, 1, 0, 2)]


async def test_a_job_that_is_cancelled_before_its_turn_does_not_run() -> None:
    metrics, ran = Metrics(), list[int]()
    async with blocked(metrics) as (threads, gate):
        jobs = [threads.run(lambda at=at: ran.append(at), client=None, deadline_s=math.inf) for at in range(2)]  # type: ignore[misc]
        assert metrics.registry.get_sample_value("mse_grad_queued_messages") == 2
        jobs[0].cancel()
        await asyncio.sleep(0)
        assert metrics.registry.get_sample_value("mse_grad_queued_messages") == 1
        gate.set()
        await jobs[1]
    assert ran == [1]
    assert metrics.registry.get_sample_value("mse_grad_queued_messages") == 0


async def test_jobs_that_wait_at_the_end_are_cancelled() -> None:
    metrics = Metrics()
    async with blocked(metrics) as (threads, gate):
        waiting = threads.run(lambda: None, client=None, deadline_s=math.inf)
        closing = asyncio.ensure_future(asyncio.to_thread(threads.close))
        while not threads._pool._shutdown:
            await asyncio.sleep(0)
        gate.set()
        await closing
        with pytest.raises(asyncio.CancelledError):
            await waiting
    assert metrics.registry.get_sample_value("mse_grad_queued_messages") == 0


async def test_the_error_of_a_job_is_raised_and_keeps_nothing_in_memory_once_it_is_forgotten() -> None:
    class Operands:
        pass

    async with blocked() as (threads, gate):
        operands = Operands()
        held = weakref.ref(operands)

        def fail(operands: Operands) -> None:
            raise ValueError("the job failed")

        gate.set()
        gc.disable()
        try:
            failed = threads.run(lambda given=operands: fail(given), client=None, deadline_s=math.inf)  # type: ignore[misc]
            del operands
            await asyncio.wait([failed])
            assert str(failed.exception()) == "the job failed"
            del failed
            # The thread still holds the job while it reports its end.
            await until(lambda: held() is None)
        finally:
            gc.enable()
