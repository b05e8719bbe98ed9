"""Transport of requests: to one given address, or straight to the workers behind one or many."""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import Callable, Sequence
from itertools import count
from typing import Any, TypeVar

import numpy as np

from mse_grad.codec import TensorFrame, UnaryRequest, decode_unary_response, encode_unary_request
from mse_grad.methods import COMPUTE_GRADIENT
from mse_grad.tensor import Array
from mse_grad.v1 import mse_grad_pb2 as pb
from mse_grad_client.errors import ClientClosed, InternalError, InvalidArgument, MseGradError
from mse_grad_client.events import Events
from mse_grad_client.interceptor import CallInfo
from mse_grad_client.interrupts import Latch
from mse_grad_client.options import MAX_TIMEOUT_S, ClientOptions, RetryOptions, is_real, shown
from mse_grad_client.request import GradientRequest
from mse_grad_client.retry import Retries, RetryBudget, Step, StreamStale, with_retries
from mse_grad_client.routing.connection import Connection
from mse_grad_client.routing.routes import Routes
from mse_grad_client.routing.session import Session
from mse_grad_client.routing.target import Target
from mse_grad_client.stream.pending import Assignment, PendingRequest

__all__ = ["Transport"]

# Longest time that `close` waits for gRPC. Calls end at once unless gRPC hangs.
_CLOSE_TIMEOUT_S = 10.0
_ONCE = RetryOptions(max_attempts=1)
# Size of a block that is allocated and freed once. From then on glibc keeps smaller freed blocks for reuse, up to twice
# this size in total.
_MALLOC_BLOCK_BYTES = 24 * 2**20

Value = TypeVar("Value")


class Transport:
    """Sends requests over connections that open when they are first needed. Thread-safe.

    If there are several workers, each request goes to the one with the fewest bytes in flight.

    Args:
        address: Address of one server or of many; see MseGradClient.
        options: Options of the client.

    Attributes:
        address: As given, for messages; the entries of a list with commas between.
        closed: Set when the client is closed.
        region: Memory that servers on this host may map; None if memory sharing is disabled.

    Raises:
        ValueError: `address` has none of these forms, or a token would go to another machine without TLS.
        TlsFailed, Unauthenticated: A credential file cannot be used.
    """

    def __init__(self, address: str | Sequence[str], options: ClientOptions) -> None:
        self._target = Target.of(address)
        _raise_malloc_threshold()
        self.address = address if isinstance(address, str) else ", ".join(address)
        self.closed = Latch()
        self._routes = Routes(self._target, options, closed=self.closed)
        self.region = self._routes.region
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

    def run(self, request: GradientRequest, *, deadline: float | None, pending: PendingRequest | None = None) -> None:
        """Fills the gradient of `request`, trying as often as the options allow; raises MseGradError.

        Args:
            request: The request.
            deadline: Deadline of the caller on the clock of time.monotonic.
            pending: The request that `start` has already sent; None to send it here.
        """
        retries: Retries | None = None  # created at the first failure
        assignment: Assignment | None = None if pending is None else pending.assignment
        try:
            while True:
                try:
                    with self._session.visit(request) as pool:
                        if pending is None:
                            assignment = pool.assign(len(request.predict))
                            by_stream = retries is not None and retries.step is Step.BY_STREAM
                            connection = assignment.connection
                            pending = self._send(connection, request, deadline, assignment, by_stream=by_stream)
                        pending.result()
                        return
                except MseGradError as error:
                    retries = retries or self._retries(self._options.retry, deadline)
                    falls_back = pending is not None and pending.should_fall_back(error)
                    other_worker = assignment is not None and assignment.is_worker_left_out
                    if not retries.should_retry(error, falls_back=falls_back, other_worker=other_worker):
                        if isinstance(error, StreamStale):
                            raise error.plain() from None
                        raise
                pending = None
        finally:
            request.holder = None

    def start(self, request: GradientRequest, *, deadline: float | None) -> PendingRequest | None:
        """Sends `request` and returns it; None if that failed. `run` or `cancel` must follow."""
        try:
            with self._session.visit(request) as pool:
                assignment = pool.assign(len(request.predict))
                return self._send(assignment.connection, request, deadline, assignment)
        except MseGradError:
            return None

    def cancel(self, request: GradientRequest, pending: PendingRequest) -> None:
        """Cancels a request that `start` has sent."""
        try:
            with self._session.visit(request):
                pending.cancel()
        finally:
            request.holder = None

    def run_unary(self, request: GradientRequest, *, deadline: float | None) -> None:
        """Fills the gradient of `request` with one ComputeGradient RPC to the given address; raises MseGradError."""
        dtype, shape = request.dtype.wire, request.shape
        message = encode_unary_request(
            UnaryRequest(
                TensorFrame(dtype, shape, request.predict),
                TensorFrame(dtype, shape, request.label),
                TensorFrame(dtype, request.dout_shape, request.dout),
                int(request.reduction),
                request.numel,
            )
        )

        call = request.call or CallInfo("compute_unary", request_id=self.next_request_id())

        def compute(given: Connection) -> bytes:
            return given.call(COMPUTE_GRADIENT, message, info=call, deadline=deadline)

        y = decode_unary_response(self._ask(compute, self._options.retry, deadline, size_bytes=len(request.predict))).y
        if (y.dtype, y.shape, len(y.data)) != (dtype, shape, len(request.y)):
            raise InternalError(
                f"the server answered dtype {y.dtype}, shape {list(y.shape)} and {len(y.data)} bytes; "
                f"expected dtype {dtype}, shape {list(shape)} and {len(request.y)} bytes"
            )
        request.fill(0, y.data)

    def empty(self, shape: Sequence[int], dtype: np.dtype[Any]) -> Array:
        """Returns an uninitialized array for packed operands, in shared memory if that is faster."""
        size_bytes = math.prod(shape) * dtype.itemsize
        if self.region is None or size_bytes < self._options.copied_from_bytes:
            return np.empty(shape, dtype)
        return self.region.empty(shape, dtype)

    def server_info(
        self, *, deadline: float | None, once: bool = False, request_id: str = ""
    ) -> pb.GetServerInfoResponse:
        """Returns the answer of GetServerInfo at the given address; raises MseGradError.

        Args:
            deadline: Deadline of the caller on the clock of time.monotonic.
            once: Whether to make a single attempt.
            request_id: Name of the call in the server's logs; "" for a new one.
        """
        options = _ONCE if once else self._options.retry
        call = CallInfo("server_info", request_id=request_id or self.next_request_id())
        return self._ask(lambda given: given.server_info(info=call, deadline=deadline), options, deadline)

    def shares_memory(self, *, deadline: float | None) -> bool:
        """Returns whether the server at the given address maps memory of this process."""
        try:
            return self._ask(lambda given: given.shares_memory(deadline=deadline), _ONCE, deadline)
        except MseGradError:
            return False  # without a stream no memory is shared

    def close(self) -> None:
        """Ends every connection for good; requests under way fail with ClientClosed.

        It returns at once in a signal handler that interrupted a call of this client, because the interrupted call may
        keep the connections from closing.
        """
        self.closed.set()
        self._session.close(ClientClosed("the client was closed"), timeout_s=_CLOSE_TIMEOUT_S)
        if self.region is not None:
            self.region.close()

    def pause(self, timeout_s: float) -> None:
        """Blocks new requests and disconnects before a fork; see Session.pause."""
        self._session.pause(timeout_s)

    def resume(self) -> None:
        """Lets requests through again after `pause`."""
        self._session.resume()

    def reset_after_fork(self) -> None:
        """Resets the transport in a forked child, which has none of the parent's threads and requests."""
        if self.region is not None:
            self.region.reset_after_fork()
        self._begin_process()

    def _begin_process(self) -> None:
        # A forked child needs a new session: in the old one the parent's threads still count as inside, and they never
        # leave.
        self._session = Session(self._target, self._routes, all_workers=self._options.all_workers)
        self._retry_budget = RetryBudget(self._options.retry.max_per_s)
        self._client_token = secrets.token_hex(4)
        self._request_numbers = count(1)

    def _retries(self, options: RetryOptions, deadline: float | None) -> Retries:
        return Retries(options, self._retry_budget, deadline=deadline, closed=self.closed, events=self._events)

    def _send(
        self,
        connection: Connection,
        request: GradientRequest,
        deadline: float | None,
        assignment: Assignment,
        *,
        by_stream: bool = False,
    ) -> PendingRequest:
        try:
            return connection.start(
                request,
                request_id=self.next_request_id() if request.call is None else request.call.request_id,
                deadline=deadline,
                assignment=assignment,
                by_stream=by_stream,
            )
        except BaseException as error:
            assignment.end(error if isinstance(error, MseGradError) else None)
            raise

    def _ask(
        self, ask: Callable[[Connection], Value], options: RetryOptions, deadline: float | None, *, size_bytes: int = 0
    ) -> Value:
        """Asks the server at the given address, or one of many by WorkerPool.assign_call, and returns its answer.

        Retries as often as `options` allow; raises MseGradError.
        """

        def attempt() -> Value:
            with self._session.visit() as pool:
                assignment = pool.assign_call(size_bytes)
                failure: MseGradError | None = None
                try:
                    return ask(assignment.connection)
                except MseGradError as error:
                    failure = error
                    raise
                finally:
                    assignment.end(failure)
                    failure = None  # the traceback of the error refers to this frame

        return with_retries(attempt, self._retries(options, deadline))

    def next_request_id(self) -> str:
        """Returns a name for a request that its caller has not named."""
        return f"{self._client_token}-{next(self._request_numbers)}"


def _raise_malloc_threshold() -> None:
    """Lets glibc reuse freed memory for messages, which saves a page fault for every 4 KiB.

    glibc maps each block above a threshold anew. It raises the threshold to the largest such block freed so far, up to
    32 MiB: mallopt(3), M_MMAP_THRESHOLD. In a process that works with large arrays the threshold has usually risen
    already; otherwise a gradient of 64K elements takes twice the time. The block is never touched, so it costs no
    memory.
    """
    np.empty(_MALLOC_BLOCK_BYTES, np.uint8)
