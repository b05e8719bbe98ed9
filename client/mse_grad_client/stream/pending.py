"""A request under way: how its caller waits for the gradient, or cancels it."""

from __future__ import annotations

from typing import Protocol

from typing_extensions import override

from mse_grad_client.errors import MseGradError, Unavailable
from mse_grad_client.retry import Replaced, StreamStale
from mse_grad_client.stream.exchange import Exchange
from mse_grad_client.stream.stream import Stream

__all__ = ["Assignment", "BesidePending", "PendingRequest", "StreamPending", "finished", "is_stale"]


class Assignment(Protocol):
    """A request's claim on a worker, from before it is sent until it has ended."""

    @property
    def is_worker_left_out(self) -> bool:
        """Whether the worker failed the request, so that later ones go to others."""

    def end(self, error: MseGradError | None) -> None:
        """Releases the claim, once; `error` says how the request failed, if it did."""


class PendingRequest:
    """A request that was sent. Ends with `result` or `cancel`, of which one is called, once.

    Args:
        assignment: The request's claim on a worker; ends with the request.
    """

    def __init__(self, assignment: Assignment) -> None:
        self.assignment = assignment

    async def result(self) -> None:
        """Waits until the gradient is whole; raises MseGradError. A task that is cancelled cancels the request."""
        failure: MseGradError | None = None
        try:
            await self._wait()
        except MseGradError as error:
            failure = error
            raise
        finally:
            self.assignment.end(failure)
            failure = None  # the traceback of the error refers to this frame

    async def cancel(self) -> None:
        """Cancels the request; afterwards nothing is written to its gradient."""
        try:
            await self._abandon()
        finally:
            self.assignment.end(None)

    def should_fall_back(self, error: MseGradError) -> bool:
        """Whether the stream of the RPC may still compute the gradient, although `result` raised `error`."""
        return False

    async def _wait(self) -> None:
        raise NotImplementedError

    async def _abandon(self) -> None:
        raise NotImplementedError


class StreamPending(PendingRequest):
    """A request whose tensors travel in the messages of a stream.

    Args:
        stream: The stream.
        exchange: The request on the stream.
        id: Id of the request on the stream.
        is_first: Whether the stream was opened for this request.
        assignment: The request's claim on a worker.
    """

    def __init__(self, stream: Stream, exchange: Exchange, id: int, *, is_first: bool, assignment: Assignment) -> None:
        super().__init__(assignment)
        self._stream = stream
        self._exchange = exchange
        self._id = id
        self._is_first = is_first

    @override
    async def _wait(self) -> None:
        try:
            if self._exchange.task is None:
                self._stream.finish(self._id, self._exchange)
            else:
                await finished(self._stream, self._id, self._exchange)
        except Unavailable as error:
            if is_stale(error, self._stream, is_first=self._is_first):
                raise StreamStale.of(error) from None
            raise

    @override
    async def _abandon(self) -> None:
        self._stream.abandon(self._id, self._exchange)


class BesidePending(PendingRequest):
    """A request whose tensors travel in messages beside the stream of an RPC: in packets, or on a direct connection.

    Args:
        stream: The stream of these messages.
        exchange: The request on that stream.
        id: Id of the request on that stream.
        assignment: The request's claim on a worker.
    """

    def __init__(self, stream: Stream, exchange: Exchange, id: int, *, assignment: Assignment) -> None:
        super().__init__(assignment)
        self._stream = stream
        self._exchange = exchange
        self._id = id

    @override
    def should_fall_back(self, error: MseGradError) -> bool:
        # The RPC knows better how the server is.
        return isinstance(error, Unavailable) and not self._stream.takes_requests

    @override
    async def _wait(self) -> None:
        if self._exchange.task is None:
            self._stream.finish(self._id, self._exchange)
        else:
            await finished(self._stream, self._id, self._exchange)

    @override
    async def _abandon(self) -> None:
        self._stream.abandon(self._id, self._exchange)


async def finished(stream: Stream, id: int, exchange: Exchange) -> None:
    """As `Stream.finish`, for the task of the exchange."""
    task = exchange.task
    assert task is not None
    try:
        if not task.reads(stream):
            stream.read_in_thread()
        await task.until(exchange.needs_caller, exchange.deadline)
        exchange.wait()  # it has ended, or its time is over
    except BaseException:  # also if the task was cancelled
        stream.abandon(id, exchange)
        raise


def is_stale(error: Unavailable, stream: Stream, *, is_first: bool) -> bool:
    """Whether a request failed only because its stream, opened for an earlier request, had ended.

    Args:
        error: The failure of the request.
        stream: The stream that it was sent on.
        is_first: Whether the stream was opened for this request.
    """
    return not (isinstance(error, Replaced) or is_first or stream.takes_requests)
