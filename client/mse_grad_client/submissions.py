"""Submitted calls: sent at once in the caller's thread, awaited by a few threads that all of them share."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Mapping
from concurrent.futures import Future
from contextlib import ExitStack, suppress
from contextvars import Context, copy_context
from queue import Empty, SimpleQueue
from time import monotonic, sleep

from typing_extensions import override

from mse_grad.reasons import Reason
from mse_grad.tensor import Array
from mse_grad_client.calls import Calls
from mse_grad_client.errors import Cancelled, ClientClosed, DeadlineExceeded
from mse_grad_client.request import GradientRequest
from mse_grad_client.routing.transport import Transport
from mse_grad_client.routing.waiter import run
from mse_grad_client.stream.pending import PendingRequest

__all__ = ["MOST_SUBMITTED", "GradientFuture", "Submissions"]

MOST_SUBMITTED = 64
"""Most calls of one client that are submitted and have not ended; `submit` waits while there are as many."""
_MOST_THREADS = 4
# How long `cancel` waits until the thread that waits for the call has given it up. That takes a few milliseconds, or 50
# if the server does not answer. The bound is for a thread that cancels the call that it waits for itself.
_QUIET_S, _POLL_S = 1.0, 0.001


class GradientFuture(Future[Array]):
    """Future of a submitted call. Until it has a result, `cancel` cancels it, here and on the server.

    Once `cancel` has returned True, nothing is written to the caller's `out`.

    Args:
        transport: Sends requests.
        request: The request of the call.

    Attributes:
        pending: The sent request, until the thread that waits for it or the one that cancels it pops it, in one step.
    """

    def __init__(self, transport: Transport, request: GradientRequest) -> None:
        super().__init__()
        self.pending: deque[PendingRequest] = deque()
        self._transport = transport
        self._request = request

    @override
    def cancel(self) -> bool:
        is_cancelled = super().cancel()
        if is_cancelled:
            request = self._request
            request.is_cancelled = True  # first: an attempt that begins now checks it once it is the holder
            holder = request.holder
            if holder is not None:
                holder.fail(_cancelled(request))
            try:
                pending = self.pending.pop()
            except IndexError:  # a thread waits for it, and gives it up now
                give_up_s = monotonic() + _QUIET_S
                while holder is not None and request.holder is holder and monotonic() < give_up_s:
                    sleep(_POLL_S)
            else:
                run(lambda: self._transport.cancel(request, pending))
        return is_cancelled


class _Submitted:
    __slots__ = ("around", "context", "deadline", "future", "out", "request")

    def __init__(
        self,
        future: GradientFuture,
        request: GradientRequest,
        deadline: float | None,
        out: Array | None,
        around: ExitStack,
        context: Context,
    ) -> None:
        self.future = future
        self.request = request
        self.deadline = deadline
        self.out = out
        self.around = around
        self.context = context


class Submissions:
    """The submitted calls of one client. Thread-safe; starts its threads when they are first needed.

    Args:
        transport: Sends requests.
        calls: Opens calls.
    """

    def __init__(self, transport: Transport, calls: Calls) -> None:
        self._transport = transport
        self._calls = calls
        self._is_closed = False
        self._begin_process()

    def submit(
        self,
        request: GradientRequest,
        *,
        out: Array | None,
        deadline: float | None,
        request_id: str,
        metadata: Mapping[str, str] | None,
    ) -> GradientFuture:
        """Sends a request and returns its future, which ends with `out`, or a new array, or the error of the call.

        Args:
            request: The checked request.
            out: The caller's array for the gradient, if there is one.
            deadline: Deadline of the caller on the clock of time.monotonic.
            request_id: The caller's name for the call; "" for one of the client's.
            metadata: The caller's own words.

        Raises:
            DeadlineExceeded: As many calls as allowed were under way until the deadline.
            ClientClosed: The client was closed.
            RuntimeError: The system cannot start a thread; nothing was sent.
            InvalidArgument: The request id or the metadata is out of bounds.
        """
        if self._pid != os.getpid():  # a forked child has none of the threads
            self._begin_process()
        if self._is_closed:
            raise ClientClosed("the client was closed; make another one")
        try:
            self._places.get(timeout=None if deadline is None else max(0.0, deadline - monotonic()))
        except Empty:
            raise DeadlineExceeded(
                f"{MOST_SUBMITTED} submitted calls were under way for the whole time given",
                reason=Reason.DEADLINE_EXCEEDED,
            ) from None
        request.is_cancelled = False
        future = GradientFuture(self._transport, request)
        around, context = ExitStack(), copy_context()
        try:
            self._start_thread()  # before the call is sent: without a thread nobody would end it
            call = self._calls.around("submit", request, request_id=request_id, metadata=metadata)
            context.run(around.enter_context, call)
            pending = run(lambda: self._transport.start(request, deadline=deadline))
            if pending is not None:
                future.pending.append(pending)
            self._sent.put(_Submitted(future, request, deadline, out, around, context))
        except BaseException:
            self._places.put(None)
            raise
        return future

    def close(self) -> None:
        """Ends the threads, once the calls under way have ended; the transport is closed before."""
        self._is_closed = True
        for _ in self._threads:
            self._sent.put(None)

    def _begin_process(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._sent: SimpleQueue[_Submitted | None] = SimpleQueue()
        self._places: SimpleQueue[None] = SimpleQueue()  # get and put are single steps, which no signal breaks
        for _ in range(MOST_SUBMITTED):
            self._places.put(None)

    def _start_thread(self) -> None:
        """Starts a thread if all are busy and there may be more; raises RuntimeError if the system has none at all."""
        with self._lock:
            if len(self._threads) < _MOST_THREADS and MOST_SUBMITTED - self._places.qsize() > len(self._threads):
                thread = threading.Thread(
                    target=_finish_all,
                    args=(self._transport, self._sent, self._places),
                    name="mse-grad-submitted",
                    daemon=True,
                )
                try:
                    thread.start()
                except RuntimeError:
                    if not self._threads:
                        raise
                    return
                self._threads.append(thread)


def _finish_all(transport: Transport, sent: SimpleQueue[_Submitted | None], places: SimpleQueue[None]) -> None:
    """Waits for submitted calls, one after another, until it gets None. Refers to no client, which may be collected."""
    while (one := sent.get()) is not None:
        try:
            _finish(transport, one)
        finally:
            places.put(None)
        del one


def _finish(transport: Transport, one: _Submitted) -> None:
    future, request = one.future, one.request

    def finish() -> None:
        with one.around:
            pending = None
            with suppress(IndexError):
                pending = future.pending.pop()
            if pending is None and request.is_cancelled:
                raise _cancelled(request)
            run(lambda: transport.run(request, deadline=one.deadline, pending=pending))

    try:
        one.context.run(finish)
    except BaseException as error:  # noqa: BLE001 - belongs to whoever waits for the future
        if future.set_running_or_notify_cancel():
            future.set_exception(error)
        return
    # First: a future that is cancelled is done, and its caller may use `out` for something else.
    if not future.set_running_or_notify_cancel():
        return
    try:
        gradient = request.gradient()
    except BaseException as error:  # noqa: BLE001 - as above
        future.set_exception(error)
    else:
        future.set_result(gradient if one.out is None else one.out)


def _cancelled(request: GradientRequest) -> Cancelled:
    request_id = "" if request.call is None else request.call.request_id
    return Cancelled("the caller cancelled the future", reason=Reason.CANCELLED, request_id=request_id)
