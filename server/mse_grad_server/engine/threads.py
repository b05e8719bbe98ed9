"""Compute threads, and the queue in front of them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Hashable
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock
from typing import Any, TypeVar

from mse_grad_server.engine.fair_queue import FairQueue, due_s
from mse_grad_server.metrics.registry import Metrics

__all__ = ["ComputeThreads"]

T = TypeVar("T")


class ComputeThreads:
    """Threads that run jobs: the clients in turn, and each client's jobs by their deadlines.

    Thread safety: `run` belongs to the event loop.

    Args:
        count: Number of threads.
        metrics: Receives the length of the queue and the time in it.
    """

    def __init__(self, count: int, metrics: Metrics) -> None:
        self._queued = metrics.queued_messages
        self._queueing = metrics.phases.queue
        self._queue: FairQueue[Future[Any]] = FairQueue()
        # Queued jobs, each with its time of arrival.
        self._jobs: dict[Future[Any], tuple[Callable[[], Any], float]] = {}
        self._lock = Lock()
        self._pool = ThreadPoolExecutor(count, thread_name_prefix="compute")

    def run(self, job: Callable[[], T], *, client: Hashable, deadline_s: float) -> asyncio.Future[T]:
        """Runs `job` in a thread, unless the future that this returns is cancelled before.

        Args:
            job: The job.
            client: Client that it is for.
            deadline_s: Time when nobody waits for it any longer; infinite without a deadline.
        """
        future: Future[T] = Future()
        came_s = time.monotonic()
        self._queued.inc()
        with self._lock:
            self._jobs[future] = job, came_s
            self._queue.put(future, client=client, due_s=due_s(deadline_s, came_s))
        future.add_done_callback(self._forget)
        # Which job a thread runs is decided when it is free.
        self._pool.submit(self._run_next)
        return asyncio.wrap_future(future)

    def close(self) -> None:
        """Waits for the jobs that run and cancels the others. The call blocks."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        for future in list(self._jobs):
            future.cancel()

    def _forget(self, future: Future[Any]) -> None:
        with self._lock:
            was_queued = self._jobs.pop(future, None) is not None
            self._queue.discard(future)
        if was_queued:
            self._queued.dec()

    def _run_next(self) -> None:
        with self._lock:
            if not self._queue:  # a job was cancelled meanwhile
                return
            future = self._queue.pop()
            job, came_s = self._jobs.pop(future)
        self._queued.dec()
        if not future.set_running_or_notify_cancel():
            return
        self._queueing.observe(time.monotonic() - came_s)
        try:
            result = job()
        except BaseException as error:  # noqa: BLE001 - the future has it
            future.set_exception(error)
            # The error's traceback holds this frame, which would hold the error through the future.
            del future
        else:
            future.set_result(result)
