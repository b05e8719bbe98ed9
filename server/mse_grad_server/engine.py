"""Admission, computing and draining; knows neither gRPC nor the bytes of a message.

Everything but `compute_all` belongs to the event loop.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol, TypeVar

from mse_grad.tensor import DType
from mse_grad_server.backends.base import Backend, ComputeAll
from mse_grad_server.config import Settings, size_text
from mse_grad_server.errors import Draining, DTypeNotOnBackend, NotReady, ServerBusy
from mse_grad_server.metrics import Metrics
from mse_grad_server.state import State

__all__ = ["Drainable", "Engine"]

T = TypeVar("T")

# A lone gradient may be so many times larger than a small one: it takes about as long as a thread needs to wake up and
# to be heard, and who comes meanwhile waits for it no longer than for a message of large chunks.
_LONE_FACTOR = 8


class Drainable(Protocol):
    """What must know that the server drains: a stream."""

    def drain(self) -> None:
        """Takes no further requests, finishes those it has, then leaves the engine."""

    def cut_off(self) -> None:
        """Leaves the engine with what it has unfinished: the time to drain is over."""


class Engine:
    """Takes requests up to a bound on their bytes, computes them, and drains.

    Attributes:
        state: Where in its life the server is.
        in_flight_requests: Requests admitted and not released.
        in_flight_bytes: Operand bytes admitted and not released.
        compute_all: `Backend.compute_all`, or what was given in its place; from any thread.
        part_bytes: See Backend.
        fallback: What computes where that fails with DeviceUnavailable, or None; likewise.
    """

    def __init__(
        self,
        backend: Backend,
        metrics: Metrics,
        settings: Settings,
        *,
        compute_all: ComputeAll | None = None,
        fallback: ComputeAll | None = None,
    ) -> None:
        self.state = State.STARTING
        self.in_flight_requests = 0
        self.in_flight_bytes = 0
        self.compute_all: ComputeAll = compute_all or backend.compute_all
        self.part_bytes = backend.part_bytes
        self.fallback = fallback
        self._backend = backend
        self._metrics = metrics
        self._settings = settings
        self._dtypes = frozenset(dtype.wire for dtype in backend.dtypes)
        self._inline_bytes = 0
        self._published = (0, 0)
        self._unary_calls = 0
        self._streams: set[Drainable] = set()
        threads = max(settings.compute_threads, backend.threads)
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="compute")
        self._idle: asyncio.Future[None] | None = None

    def set_ready(self, *, inline_bytes: int) -> None:
        """Takes requests from now on; gradients of up to `inline_bytes` are small."""
        self.state = State.READY
        self._inline_bytes = inline_bytes
        self._metrics.ready.set(1)

    def set_available(self, is_available: bool) -> None:
        """Says whether the device takes gradients now; requests are taken either way, and wait or are refused there."""
        if self.state in (State.READY, State.RECOVERING):
            self.state = State.READY if is_available else State.RECOVERING
            self._metrics.ready.set(int(is_available))

    def admit(self, size_bytes: int, dtype: DType) -> None:
        """Takes one request of the stream, to be released with the same size.

        Args:
            size_bytes: The most of its operands that the server will hold at a time.
            dtype: Of its operands.

        Raises:
            NotReady, Draining: The server takes no requests now.
            DTypeNotOnBackend: The backend does not compute `dtype`.
            ServerBusy: The bound on admitted bytes is reached.
        """
        self.require_ready()
        self.charge(size_bytes, dtype)
        self.in_flight_requests += 1

    def admit_unary(self) -> None:
        """Takes one call before its message is read, to be released with `release_unary` and what it was charged.

        Raises:
            NotReady, Draining: The server takes no requests now.
            ServerBusy: As many calls as may be are under way.
        """
        self.require_ready()
        if self._unary_calls >= self._settings.max_unary_in_flight:
            raise ServerBusy(f"{self._unary_calls} calls of ComputeGradient are under way; the server takes no more")
        self._unary_calls += 1
        self.in_flight_requests += 1

    def charge(self, size_bytes: int, dtype: DType) -> None:
        """Counts the operands of an admitted request; raises DTypeNotOnBackend or ServerBusy and then counts none."""
        if dtype.wire not in self._dtypes:
            known = ", ".join(known.name for known in self._backend.dtypes)
            raise DTypeNotOnBackend(
                f"the backend {self._backend.name} does not compute {dtype.name}; it computes {known}"
            )
        if self.in_flight_bytes + size_bytes > self._settings.max_in_flight_bytes:
            raise ServerBusy(
                f"the request needs {size_text(size_bytes)}; {size_text(self.in_flight_bytes)} of "
                f"{size_text(self._settings.max_in_flight_bytes)} are in use"
            )
        self.in_flight_bytes += size_bytes

    def release(self, size_bytes: int) -> None:
        """Gives back what one request was admitted with."""
        self.in_flight_bytes -= size_bytes
        self.in_flight_requests -= 1
        self._tell_if_idle()

    def release_unary(self, size_bytes: int) -> None:
        """Gives back the place of one call and the bytes it was charged."""
        self._unary_calls -= 1
        self.release(size_bytes)

    def join(self, stream: Drainable) -> None:
        """Takes a stream, which leaves when it ends; raises Draining or ServerBusy. Before ready its requests fail."""
        if self.state is State.DRAINING:
            raise self._draining()
        if len(self._streams) >= self._settings.max_streams:
            raise ServerBusy(f"{len(self._streams)} streams are open; the server takes no more")
        self._streams.add(stream)
        self._metrics.open_streams.set(len(self._streams))

    def leave(self, stream: Drainable) -> None:
        """Lets go of a stream that joined."""
        self._streams.remove(stream)
        self._metrics.open_streams.set(len(self._streams))
        self._tell_if_idle()

    def require_ready(self) -> None:
        """Raises NotReady or Draining unless requests are taken now."""
        if self.state in (State.READY, State.RECOVERING):
            return
        if self.state is State.DRAINING:
            raise self._draining()
        raise NotReady("the server starts: its first gradients are not verified yet")

    def is_small(self, gradient_bytes: int) -> bool:
        """Whether a gradient is computed faster in the event loop than a thread takes to wake up."""
        return gradient_bytes <= self._inline_bytes

    def is_quick(self, gradient_bytes: int) -> bool:
        """Whether a gradient, larger than small, may be computed in the event loop: no other request would wait."""
        return self.in_flight_requests <= 1 and gradient_bytes <= _LONE_FACTOR * self._inline_bytes

    def run(self, job: Callable[[], T]) -> asyncio.Future[T]:
        """Runs `job` in a thread of computation."""
        queued, queueing, came_s = self._metrics.queued_messages, self._metrics.phases.queue, time.monotonic()
        queued.inc()

        def timed_job() -> T:
            queued.dec()
            queueing.observe(time.monotonic() - came_s)
            return job()

        def ended(running: Future[T]) -> None:
            if running.cancelled():  # before a thread took it
                queued.dec()

        running = self._threads.submit(timed_job)
        running.add_done_callback(ended)
        return asyncio.wrap_future(running)

    def publish(self) -> None:
        """Tells the metrics what is in flight; once a message rather than once a request, which would cost more."""
        in_flight = (self.in_flight_requests, self.in_flight_bytes)
        if in_flight != self._published:
            self._published = in_flight
            self._metrics.in_flight_requests.set(self.in_flight_requests)
            self._metrics.in_flight_bytes.set(self.in_flight_bytes)

    async def drain(self, timeout_s: float) -> bool:
        """Takes nothing new and waits for what was admitted; returns whether all of it ended within `timeout_s`."""
        self.state = State.DRAINING
        self._metrics.ready.set(0)
        for stream in list(self._streams):
            stream.drain()
        self._idle = asyncio.get_running_loop().create_future()
        self._tell_if_idle()
        await asyncio.wait([self._idle], timeout=timeout_s)
        if self._idle.done():
            return True
        for stream in list(self._streams):
            stream.cut_off()
        return False

    def close(self) -> None:
        """Waits for the threads of computation, which end with what they have; blocks."""
        self._threads.shutdown(wait=True, cancel_futures=True)

    def _tell_if_idle(self) -> None:
        if self._idle is not None and not self._idle.done() and not self.in_flight_requests and not self._streams:
            self._idle.set_result(None)

    def _draining(self) -> Draining:
        return Draining("the server finishes what it has and ends; send the request to another one, or again later")
