"""Admission of requests, compute threads and drain; independent of gRPC and of the wire format.

Everything except `compute_all` and `fallback` belongs to the event loop.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self, TypeVar

from mse_grad.tensor import DType
from mse_grad_server.backends.base import Backend, ComputeAll
from mse_grad_server.engine.admission import MessageAdmission, SharedAdmission, Waiting
from mse_grad_server.engine.shares import Share, Shares
from mse_grad_server.engine.streams import Drainable, OpenStreams
from mse_grad_server.engine.threads import ComputeThreads
from mse_grad_server.errors import Draining, DTypeNotOnBackend, NotReady
from mse_grad_server.metrics.registry import Metrics
from mse_grad_server.process.state import State
from mse_grad_server.settings.model import Settings

__all__ = ["Engine", "EngineLimits"]

T = TypeVar("T")

# When no other request is in flight, gradients up to 8x inline_bytes in shared memory also run in the event loop:
# computing them takes about as long as waking a worker thread, and a request that arrives meanwhile waits no longer
# than behind one large chunk.
_LONE_FACTOR = 8


@dataclass(frozen=True)
class EngineLimits:
    """Limits of the engine.

    Attributes:
        in_flight_bytes: Most operand bytes that are admitted at a time, in messages and in shared memory each.
        waiting_requests: Most requests in shared memory that wait for admission.
        streams: Most streams that are open at a time.
        compute_threads: Number of compute threads; more if the backend needs more.
        give_way_s: How long a client may be silent while others wait for the bytes that it reserved.
    """

    in_flight_bytes: int
    waiting_requests: int
    streams: int
    compute_threads: int
    give_way_s: float

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Returns the limits in the settings."""
        return cls(
            in_flight_bytes=settings.max_in_flight_bytes,
            waiting_requests=settings.max_open_requests,
            streams=settings.max_streams,
            compute_threads=settings.compute_threads,
            give_way_s=settings.give_way_s,
        )


class Engine:
    """Admits requests up to a bound on their bytes, runs their computation in threads, and drains.

    Args:
        backend: The backend that computes.
        metrics: The metrics of the server.
        limits: Limits of the engine.
        compute_all: Computes in place of `backend.compute_all`, or None.
        fallback: Computes if that fails with DeviceUnavailable, or None.

    Attributes:
        state: State of the server.
        in_flight_requests: Number of requests admitted and not released, and of those that wait for admission.
        compute_all: Computes gradients as `Backend.compute_all` does; any thread may call it.
        part_bytes: `Backend.part_bytes`.
        fallback: Computes if `compute_all` fails with DeviceUnavailable, or None; any thread may call it.
        shares: What each client holds.
    """

    def __init__(
        self,
        backend: Backend,
        metrics: Metrics,
        limits: EngineLimits,
        *,
        compute_all: ComputeAll | None = None,
        fallback: ComputeAll | None = None,
    ) -> None:
        self.state = State.STARTING
        self.in_flight_requests = 0
        self.compute_all: ComputeAll = compute_all or backend.compute_all
        self.part_bytes = backend.part_bytes
        self.fallback = fallback
        self._backend = backend
        self._metrics = metrics
        self._dtypes = frozenset(dtype.wire for dtype in backend.dtypes)
        self._inline_bytes = 0
        self._in_messages = MessageAdmission(limits.in_flight_bytes)
        self._in_shared_memory = SharedAdmission(limits.in_flight_bytes, most_waiting=limits.waiting_requests)
        self._streams = OpenStreams(metrics, most=limits.streams, give_way_s=limits.give_way_s)
        self._threads = ComputeThreads(max(limits.compute_threads, backend.threads), metrics)
        self._idle: asyncio.Future[None] | None = None
        self.shares = Shares()
        metrics.callers.in_flight = self.shares.in_flight

    def set_ready(self, *, inline_bytes: int) -> None:
        """Starts to accept requests; gradients of up to `inline_bytes` run in the event loop."""
        self.state = State.READY
        self._inline_bytes = inline_bytes
        self._metrics.ready.set(1)
        self._metrics.in_flight_requests.set_function(lambda: self.in_flight_requests)
        self._metrics.in_flight_bytes.set_function(lambda: self.in_flight_bytes)

    def set_available(self, is_available: bool) -> None:
        """Records whether the device accepts gradients. Requests are admitted either way: they wait or fail there."""
        if self.state in (State.READY, State.RECOVERING):
            self.state = State.READY if is_available else State.RECOVERING
            self._metrics.ready.set(int(is_available))

    @property
    def in_flight_bytes(self) -> int:
        """Operand bytes admitted and not released."""
        return self._in_messages.in_flight_bytes + self._in_shared_memory.in_flight_bytes

    def is_crowded(self, share: Share, size_bytes: int) -> bool:
        """Whether a request of this client that announces `size_bytes` in messages would be refused now."""
        return self._in_messages.is_crowded(share, size_bytes)

    def make_room(self, share: Share, size_bytes: int, now_s: float) -> None:
        """Fails silent requests until this client may announce `size_bytes`; not right after another search."""
        self._streams.make_room(now_s, lambda: not self.is_crowded(share, size_bytes))

    def admit(self, share: Share, size_bytes: int, dtype: DType, *, is_announced: bool = False) -> None:
        """Admits one request of a stream in messages; `release` it with the same share and size.

        Args:
            share: What its client holds.
            size_bytes: The most operand bytes that the server will hold for it at a time.
            dtype: Element type of its operands.
            is_announced: Whether some of its operands are still to come.

        Raises:
            NotReady, Draining: The server accepts no requests now.
            DTypeNotOnBackend: The backend does not compute `dtype`.
            ServerBusy: The bound on admitted bytes is reached.
            QuotaExceeded: The client may not have so many requests or bytes.
        """
        self.require_ready()
        share.require_request()
        self.charge(share, size_bytes, dtype, is_announced=is_announced)
        self._begins(share)

    def admit_shared(self, request: Waiting, dtype: DType, now_s: float) -> bool:
        """Admits one request of a stream in shared memory, or queues it; returns whether it was admitted.

        `release_shared` it then, with the same share and size. If not, `request.begin` is called once it is admitted;
        until then `forget_waiting` releases it. Raises as `admit`; ServerBusy if too many requests wait.
        """
        self.require_ready()
        self._require_dtype(dtype)
        request.share.require_request()
        is_admitted = self._in_shared_memory.admit(request)
        if not is_admitted:
            self._streams.make_room(now_s, lambda: not self._in_shared_memory.is_blocked)
        self._begins(request.share)
        return is_admitted

    def admit_unary(self, share: Share) -> None:
        """Admits one unary call before its message is read; `release` it with the bytes that it is charged later.

        Raises:
            QuotaExceeded: The client may not have so many requests.
        """
        share.require_request()
        self._begins(share)

    def charge(self, share: Share, size_bytes: int, dtype: DType, *, is_announced: bool = False) -> None:
        """Counts the operands of an admitted request, or raises as `admit` and counts none."""
        self._require_dtype(dtype)
        self._in_messages.admit(share, size_bytes, is_announced=is_announced)

    def release(self, share: Share, size_bytes: int) -> None:
        """Releases one request in messages and its bytes."""
        self._in_messages.release(share, size_bytes)
        self._ends(share)

    def release_shared(self, share: Share, size_bytes: int) -> None:
        """Releases one request in shared memory and its bytes."""
        self._in_shared_memory.release(share, size_bytes)
        self._ends(share)

    def forget_waiting(self, request: Waiting) -> None:
        """Releases one request that waits for admission."""
        self._in_shared_memory.forget(request)
        self._ends(request.share)

    def join(self, stream: Drainable, *, counts_as_open: bool = True) -> None:
        """Registers a stream until it leaves. Its requests fail while the server is not ready.

        Args:
            stream: The stream.
            counts_as_open: Whether it counts against the limit; a second stream of the same client does not.

        Raises:
            Draining: The server no longer accepts streams.
            ServerBusy: Too many streams are open, including those that gave way to others and are about to end.
        """
        self.require_open()
        self._streams.add(stream, counts_as_open=counts_as_open)

    def leave(self, stream: Drainable) -> None:
        """Unregisters a stream; does nothing if `join` refused it."""
        self._streams.remove(stream)
        self._tell_if_idle()

    def require_open(self) -> None:
        """Raises Draining if streams are no longer accepted."""
        if self.state is State.DRAINING:
            raise self._draining()

    def require_ready(self) -> None:
        """Raises NotReady or Draining if requests are not accepted now."""
        if self.state in (State.READY, State.RECOVERING):
            return
        if self.state is State.DRAINING:
            raise self._draining()
        raise NotReady("the server is starting; it has not verified its first gradients yet")

    def runs_inline(self, gradient_bytes: int, *, is_shared: bool = False) -> bool:
        """Whether to compute a gradient in the event loop, because that is faster than to wake a thread.

        Args:
            gradient_bytes: Size of the gradient.
            is_shared: Whether it lies in shared memory. Then it may be larger if no other request is in flight, since
                none would wait for it.
        """
        return gradient_bytes <= self._inline_bytes or (
            is_shared and self.in_flight_requests <= 1 and gradient_bytes <= _LONE_FACTOR * self._inline_bytes
        )

    def run(
        self, job: Callable[[], T], *, share: Share | None = None, deadline_s: float = math.inf
    ) -> asyncio.Future[T]:
        """Runs `job` in a compute thread, unless the future that this returns is cancelled before.

        Args:
            job: The job.
            share: Share of the client that it is for; None for the server itself.
            deadline_s: Time when nobody waits for it any longer; infinite without a deadline.
        """
        return self._threads.run(job, client=share, deadline_s=deadline_s)

    async def drain(self, timeout_s: float) -> bool:
        """Stops admission and waits for admitted requests; returns whether all of them ended within `timeout_s`."""
        self.state = State.DRAINING
        self._metrics.ready.set(0)
        self._streams.drain(Draining("the server is shutting down and finishes only the requests that it has"))
        self._idle = asyncio.get_running_loop().create_future()
        self._tell_if_idle()
        await asyncio.wait([self._idle], timeout=timeout_s)
        if self._idle.done():
            return True
        self._streams.cut_off()
        return False

    def close(self) -> None:
        """Waits until the compute threads have finished their jobs. The call blocks."""
        self._threads.close()

    def _begins(self, share: Share) -> None:
        share.requests += 1
        self.in_flight_requests += 1

    def _ends(self, share: Share) -> None:
        share.requests -= 1
        self.in_flight_requests -= 1
        self._tell_if_idle()

    def _require_dtype(self, dtype: DType) -> None:
        if dtype.wire not in self._dtypes:
            known = ", ".join(known.name for known in self._backend.dtypes)
            raise DTypeNotOnBackend(
                f"the backend {self._backend.name} does not compute {dtype.name}; it computes {known}"
            )

    def _tell_if_idle(self) -> None:
        if self._idle is not None and not self._idle.done() and not self.in_flight_requests and not self._streams:
            self._idle.set_result(None)

    def _draining(self) -> Draining:
        return Draining(
            "the server is shutting down and finishes only the requests that it has; send the request to another "
            "server, or again later"
        )
