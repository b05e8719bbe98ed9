"""The way to one server: through the address that was given, or straight to the workers behind it."""

from __future__ import annotations

import math
import secrets
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from typing import Any

import numpy as np

from mse_grad.frame import TensorFrame, UnaryRequest, decode_unary_response, encode_unary_request
from mse_grad.reasons import Reason
from mse_grad.tensor import Array
from mse_grad.v1 import mse_grad_pb2 as pb
from mse_grad_client.address import is_on_this_host
from mse_grad_client.connection import Connection
from mse_grad_client.credentials import Credentials
from mse_grad_client.errors import ClientClosed, InternalError, MseGradError, Unavailable
from mse_grad_client.fleet import Fleet
from mse_grad_client.options import ClientOptions
from mse_grad_client.region import Region
from mse_grad_client.request import GradientRequest
from mse_grad_client.ride import Ride
from mse_grad_client.watcher import Watcher

__all__ = ["Flight", "Transport"]


class Flight:
    """A request that was sent. Ends with either of its methods, which is called once."""

    def __init__(self, ride: Ride, land: Callable[[], None]) -> None:
        self._ride = ride
        self._land = land

    def finish(self) -> None:
        """Blocks until the gradient is whole; raises MseGradError."""
        try:
            self._ride.finish()
        finally:
            self._land()

    def abandon(self) -> None:
        """Gives it up."""
        self._ride.abandon()
        self._land()


class Transport:
    """Sends requests over connections that open when they are first needed. Any number of threads.

    Where the server has several workers, each request takes the one with the fewest bytes in flight.

    Attributes:
        region: Memory that servers on this host may map; None where none is shared.
    """

    def __init__(self, address: str, options: ClientOptions) -> None:
        self.address = address
        self.closed = threading.Event()
        self.region = Region() if options.shared_memory and is_on_this_host(address) else None
        self._options = options
        self._credentials = Credentials(options, given=address)
        self._repeats = options.retry.max_attempts > 1
        self._begin()

    def run(self, request: GradientRequest, *, deadline: float | None) -> None:
        """Fills the gradient of `request` over a stream; raises MseGradError.

        Where the worker broke off or refused, another one is asked at once; where none is left, the caller may wait.
        """
        fleet = self._fleet
        may_repeat = True
        while True:
            self._enter()
            size_bytes = len(request.predict) if fleet.in_use else 0
            connection = fleet.pick(size_bytes) if size_bytes else fleet.given
            try:
                stream, is_new = connection.live_stream()
                try:
                    connection.run_on(stream, request, request_id=self._next_request_id(), deadline=deadline)
                    return
                except Unavailable:
                    is_worker = fleet.leave_out(connection)
                    # It had ended, perhaps long ago, unnoticed while nobody waited for an answer.
                    was_stale = not (is_new or stream.takes_requests)
                    if not (may_repeat and (was_stale or (is_worker and self._repeats))):
                        raise
            finally:
                if size_bytes:
                    fleet.release(connection, size_bytes)
                self._leave()
            may_repeat = False

    def start(self, request: GradientRequest, *, deadline: float | None) -> Flight:
        """Sends `request` once, without a second try, and returns it on its way; raises MseGradError."""
        fleet = self._fleet
        self._enter()
        size_bytes = len(request.predict)
        connection = fleet.pick(size_bytes)

        def land() -> None:
            fleet.release(connection, size_bytes)
            self._leave()

        try:
            stream, _ = connection.live_stream()
            ride = connection.start(stream, request, request_id=self._next_request_id(), deadline=deadline)
            return Flight(ride, land)
        except BaseException:
            land()
            raise

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
        with self._under_way():
            answer = self._fleet.given.call(
                "ComputeGradient", message, request_id=self._next_request_id(), deadline=deadline
            )
        y = decode_unary_response(answer).y
        if (y.dtype, y.shape, len(y.data)) != (dtype, shape, len(request.y)):
            raise InternalError(
                f"the server answered dtype {y.dtype}, shape {list(y.shape)} and {len(y.data)} bytes; "
                f"expected dtype {dtype}, shape {list(shape)} and {len(request.y)} bytes"
            )
        request.fill(0, y.data)

    def empty(self, shape: Sequence[int], dtype: np.dtype[Any]) -> Array:
        """Returns an array of unset elements for operands to be put together in: shared memory where that pays."""
        size_bytes = math.prod(shape) * dtype.itemsize
        if self.region is None or size_bytes < self._options.copied_from_bytes:
            return np.empty(shape, dtype)
        return self.region.empty(shape, dtype)

    def server_info(self, *, deadline: float | None) -> pb.GetServerInfoResponse:
        """Returns the answer of GetServerInfo at the given address; raises MseGradError."""
        with self._under_way():
            return self._fleet.given.server_info(request_id=self._next_request_id(), deadline=deadline)

    def shares_memory(self, *, deadline: float | None) -> bool:
        """Returns whether the server at the given address maps memory of this process."""
        try:
            with self._under_way():
                return self._fleet.given.shares_memory(deadline=deadline)
        except MseGradError:
            return False  # without a stream there is nothing to share it for

    def close(self) -> None:
        """Ends every connection for good; requests under way fail with ClientClosed."""
        self.closed.set()
        self._disconnect(ClientClosed("the client was closed"))
        if self.region is not None:
            self.region.close()

    def pause(self, timeout_s: float) -> None:
        """Holds new requests back, waits until none is under way, and disconnects; `resume` lets them through.

        What is still under way after `timeout_s` fails with Unavailable, and its retry waits for `resume`.
        """
        with self._lock:
            self._paused = True
            self._changed.wait_for(lambda: self._active == 0, timeout_s)
        self._disconnect(Unavailable("the process forks", reason=Reason.CONNECTION_LOST))

    def resume(self) -> None:
        """Lets requests through again after `pause`."""
        with self._lock:
            self._paused = False
            self._changed.notify_all()

    def reset_after_fork(self) -> None:
        """Makes a child process start afresh: the parent's threads and requests are not its own."""
        if self.region is not None:
            self.region.reset_after_fork()
        self._begin()

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._active = 0
        self._paused = False
        self._client_token = secrets.token_hex(4)
        self._request_numbers = count(1)
        self._fleet = Fleet(self._connect(self.address), self._connect)
        self._watcher = Watcher(self._fleet)

    def _connect(self, address: str) -> Connection:
        watch = self._watch if self._options.all_workers else None
        return Connection(
            address,
            options=self._options,
            credentials=self._credentials,
            closed=self.closed,
            region=self.region,
            on_stream=watch,
        )

    def _watch(self) -> None:
        self._watcher.start()

    def _enter(self) -> None:
        with self._lock:
            while self._paused:
                self._changed.wait()
            self._active += 1

    def _leave(self) -> None:
        with self._lock:
            self._active -= 1
            if self._paused:
                self._changed.notify_all()

    @contextmanager
    def _under_way(self) -> Iterator[None]:
        self._enter()
        try:
            yield
        finally:
            self._leave()

    def _next_request_id(self) -> str:
        return f"{self._client_token}-{next(self._request_numbers)}"

    def _disconnect(self, error: MseGradError) -> None:
        self._watcher.stop()
        self._fleet.close(error)
