"""Transport of requests: to one given address, or straight to the workers behind one or many."""

from __future__ import annotations

import math
import time
from collections.abc import Awaitable, Callable, Sequence
from itertools import count
from typing import Any, TypeVar

import numpy as np

from mse_grad.methods import COMPUTE_GRADIENT, GET_SERVER_INFO
from mse_grad.tensor import Array
from mse_grad.v1 import mse_grad_pb2 as pb
from mse_grad_client.chance import token
from mse_grad_client.errors import ClientClosed, InvalidArgument, MseGradError
from mse_grad_client.events import Events
from mse_grad_client.interceptor import CallInfo
from mse_grad_client.interrupts import Latch
from mse_grad_client.options import MAX_TIMEOUT_S, ClientOptions, RetryOptions, is_real, shown
from mse_grad_client.request import GradientRequest
from mse_grad_client.retry import Retries, RetryBudget, Step, StreamStale, with_retries
from mse_grad_client.routing.channel import INFO_REQUEST
from mse_grad_client.routing.connection import Connection
from mse_grad_client.routing.malloc import raise_malloc_threshold
from mse_grad_client.routing.room import Room
from mse_grad_client.routing.routes import Routes
from mse_grad_client.routing.session import Session, Visit
from mse_grad_client.routing.target import Target
from mse_grad_client.routing.unary import fill, info_of, message_of
from mse_grad_client.routing.waiter import BLOCKING, Waiter, open_for
from mse_grad_client.routing.worker_pool import WorkerAssignment
from mse_grad_client.stream.pending import Assignment, PendingRequest

__all__ = ["Transport"]

# Longest time that `close` waits for gRPC. Calls end at once unless gRPC hangs.
_CLOSE_TIMEOUT_S = 10.0
_ONCE = RetryOptions(max_attempts=1)

Value = TypeVar("Value")


class Transport:
    """Sends requests over connections that open when they are first needed. Thread-safe.

    If there are several workers, each request goes to the one with the fewest bytes in flight.

    Args:
        address: Address of one server or of many; see MseGradClient.
        options: Options of the client.

    Attributes:
        address: The address as given, for error texts; a list is joined with commas.
        closed: Set when the client is closed.
        allocator: Allocator of memory that servers on this host may map; None if memory sharing is disabled.

    Raises:
        ValueError: `address` has none of the forms in MseGradClient, or a token would leave this host without TLS.
        TlsFailed, Unauthenticated: A credential file cannot be used.
    """

    def __init__(self, address: str | Sequence[str], options: ClientOptions) -> None:
        self._target = Target.of(address)
        raise_malloc_threshold()
        self.address = address if isinstance(address, str) else ", ".join(address)
        self.closed = Latch()
        self._routes = Routes(self._target, options, closed=self.closed)
        self.allocator = self._routes.allocator
        self._options = options
        self._events = Events(options.metrics)
        self._begin_process()

    def deadline(self, timeout_s: float | None) -> float | None:
        """Returns the deadline of a call on the clock of time.monotonic; None for no limit.

        Raises:
            InvalidArgument: `timeout_s` is out of range.
        """
        if timeout_s is None:
            timeout_s = self._options.timeout_s
        if timeout_s is None:
            return None
        if not is_real(timeout_s) or not 0 < timeout_s <= MAX_TIMEOUT_S:
            raise InvalidArgument(
                f"timeout_s is {shown(timeout_s)}; it must be positive and at most 1e9, or None for no limit"
            )
        return time.monotonic() + float(timeout_s)

    async def run(
        self,
        request: GradientRequest,
        *,
        deadline: float | None,
        pending: PendingRequest | None = None,
        waiter: Waiter = BLOCKING,
    ) -> None:
        """Fills the gradient of `request`, trying as often as the options allow; raises MseGradError.

        Args:
            request: The request.
            deadline: Deadline of the caller on the clock of time.monotonic.
            pending: The request that `start` has already sent; None to send it here.
            waiter: How the call waits: by blocking its thread, or by suspending its task.
        """
        size_bytes = len(request.predict)
        retries: Retries | None = None  # created at the first failure
        assignment: Assignment | None = None if pending is None else pending.assignment
        try:
            while True:
                try:
                    with waiter.visit(self._session, request) as pool:
                        if pending is None:
                            assignment = pool.assign(size_bytes)
                            by_stream = retries is not None and retries.step is Step.BY_STREAM
                            if not waiter.blocks:
                                await open_for(assignment, deadline, waiter)
                            pending = self._send(request, deadline, assignment, by_stream=by_stream)
                        await pending.result()
                        self._room.answered(size_bytes)
                        return
                except MseGradError as error:
                    request.holder = None  # nothing is written until the next attempt
                    retries = retries or self._retries(self._options.retry, deadline, waiter, size_bytes)
                    falls_back = pending is not None and pending.should_fall_back(error)
                    other_worker = assignment is not None and assignment.is_worker_left_out
                    if not await retries.should_retry(error, falls_back=falls_back, other_worker=other_worker):
                        if isinstance(error, StreamStale):
                            raise error.plain() from None
                        raise
                pending = None
        finally:
            request.holder = None

    async def start(
        self, request: GradientRequest, *, deadline: float | None, waiter: Waiter = BLOCKING
    ) -> PendingRequest | None:
        """Sends `request` and returns it, or None if that failed. Then call `run`, or `cancel` if it was sent."""
        try:
            with waiter.visit(self._session, request) as pool:
                assignment = pool.assign(len(request.predict))
                if not waiter.blocks:
                    await open_for(assignment, deadline, waiter)
                return self._send(request, deadline, assignment)
        except MseGradError:
            return None

    async def cancel(self, request: GradientRequest, pending: PendingRequest, *, waiter: Waiter = BLOCKING) -> None:
        """Cancels a request that `start` has sent."""
        try:
            with waiter.visit(self._session, request):
                await pending.cancel()
        finally:
            request.holder = None

    async def run_unary(self, request: GradientRequest, *, deadline: float | None, waiter: Waiter = BLOCKING) -> None:
        """Fills the gradient of `request` with one ComputeGradient RPC to the given address; raises MseGradError."""
        message = message_of(request)
        call = request.call or CallInfo("compute_unary", request_id=self.next_request_id())

        async def compute(connection: Connection) -> bytes:
            return await waiter.call(connection, COMPUTE_GRADIENT, message, info=call, deadline=deadline)

        size_bytes = len(request.predict)
        retries = self._retries(self._options.retry, deadline, waiter, size_bytes)
        fill(request, await self._call_server(compute, retries, waiter, size_bytes))
        self._room.answered(size_bytes)

    def empty(self, shape: Sequence[int], dtype: np.dtype[Any]) -> Array:
        """Returns an uninitialized array for packed operands, in shared memory if that is faster."""
        size_bytes = math.prod(shape) * dtype.itemsize
        if self.allocator is None or size_bytes < self._options.copied_from_bytes:
            return np.empty(shape, dtype)
        return self.allocator.empty(shape, dtype)

    async def server_info(
        self, *, deadline: float | None, once: bool = False, request_id: str = "", waiter: Waiter = BLOCKING
    ) -> pb.GetServerInfoResponse:
        """Returns the answer of GetServerInfo at the given address; raises MseGradError.

        Args:
            deadline: Deadline of the caller on the clock of time.monotonic.
            once: Whether to try only once.
            request_id: Name of the call in the server's logs; "" for a new one.
            waiter: How the call waits: by blocking its thread, or by suspending its task.
        """
        retries = self._retries(_ONCE if once else self._options.retry, deadline, waiter)
        call = CallInfo("server_info", request_id=request_id or self.next_request_id())

        async def ask(connection: Connection) -> bytes:
            return await waiter.call(connection, GET_SERVER_INFO, INFO_REQUEST, info=call, deadline=deadline)

        return info_of(await self._call_server(ask, retries, waiter))

    async def transport_in_use(self, *, deadline: float | None, waiter: Waiter = BLOCKING) -> tuple[str, str]:
        """Returns `transport` and `direct_failure` of ServerInfo for the server at the given address."""

        async def read(connection: Connection) -> tuple[str, str]:
            await waiter.open(connection, deadline)
            return connection.transport(deadline=deadline, may_wait=waiter.blocks)

        try:
            return await self._call_server(read, self._retries(_ONCE, deadline, waiter), waiter)
        except MseGradError:
            return "stream", ""  # without a stream there is nothing beside it

    def visit(self, request: GradientRequest | None = None) -> Visit:
        """Returns a context in which this thread may use the connections; see Session.visit."""
        return self._session.visit(request)

    def close(self) -> None:
        """Ends every connection for good; requests under way fail with ClientClosed.

        It returns at once in a signal handler that interrupted a call of this client, because the interrupted call may
        keep the connections from closing.
        """
        self.closed.set()
        self._session.close(ClientClosed("the client was closed"), timeout_s=_CLOSE_TIMEOUT_S)
        if self.allocator is not None:
            self.allocator.close()

    def pause(self, timeout_s: float) -> None:
        """Blocks new requests and disconnects before a fork; see Session.pause."""
        self._session.pause(timeout_s)

    def resume(self) -> None:
        """Lets requests through again after `pause`."""
        self._session.resume()

    def reset_after_fork(self) -> None:
        """Resets the transport in a forked child, which has none of the parent's threads and requests."""
        if self.allocator is not None:
            self.allocator.reset_after_fork()
        self._begin_process()

    def _begin_process(self) -> None:
        # A forked child needs a new session: in the old one the parent's threads still count as inside, and they never
        # leave.
        self._session = Session(self._target, self._routes, all_workers=self._options.all_workers)
        self._retry_budget = RetryBudget(self._options.retry.max_per_s)
        self._room = Room(self.closed)
        self._client_token = token()
        self._request_numbers = count(1)

    def _retries(self, options: RetryOptions, deadline: float | None, waiter: Waiter, size_bytes: int = 0) -> Retries:
        return Retries(
            options,
            self._retry_budget,
            deadline=deadline,
            pause=lambda pause_s, wants_room: self._room.pause(waiter.pause, pause_s, size_bytes if wants_room else 0),
            events=self._events,
        )

    def _send(
        self,
        request: GradientRequest,
        deadline: float | None,
        assignment: WorkerAssignment,
        *,
        by_stream: bool = False,
    ) -> PendingRequest:
        try:
            return assignment.connection.start(
                request,
                request_id=self.next_request_id() if request.call is None else request.call.request_id,
                deadline=deadline,
                assignment=assignment,
                by_stream=by_stream,
            )
        except BaseException as error:
            assignment.end(error if isinstance(error, MseGradError) else None)
            raise

    async def _call_server(
        self, use: Callable[[Connection], Awaitable[Value]], retries: Retries, waiter: Waiter, size_bytes: int = 0
    ) -> Value:
        """Returns the answer of one server: the one at the given address, or one that WorkerPool.assign_call picks.

        Retries as often as `retries` allow; raises MseGradError.
        """

        async def attempt() -> Value:
            with waiter.visit(self._session) as pool:
                assignment = pool.assign_call(size_bytes)
                failure: MseGradError | None = None
                try:
                    return await use(assignment.connection)
                except MseGradError as error:
                    failure = error
                    raise
                finally:
                    assignment.end(failure)
                    failure = None  # the traceback of the error refers to this frame

        return await with_retries(attempt, retries)

    def next_request_id(self) -> str:
        """Returns a name for a request that its caller has not named."""
        return f"{self._client_token}-{next(self._request_numbers)}"
