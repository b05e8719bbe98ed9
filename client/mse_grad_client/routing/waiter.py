"""Waits of a call of the SDK: by a blocked thread, or by a suspended task.

The coroutines of this package are the one implementation of both clients. They wait only through a `Waiter`. That of
threads blocks and never suspends, so `run` gets the result of such a coroutine without an event loop.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from contextlib import AbstractContextManager
from typing import Any, Protocol, TypeVar

from mse_grad_client.errors import MseGradError
from mse_grad_client.interceptor import CallInfo
from mse_grad_client.interrupts import Latch
from mse_grad_client.request import GradientRequest
from mse_grad_client.routing.connection import Connection
from mse_grad_client.routing.session import Session, Visit
from mse_grad_client.routing.worker_pool import WorkerAssignment, WorkerPool

__all__ = ["BLOCKING", "Waiter", "open_for", "run"]

Value = TypeVar("Value")


class Waiter(Protocol):
    """The waits of one call.

    Attributes:
        blocks: Whether it blocks the thread, and so never suspends.
    """

    blocks: bool

    def visit(self, session: Session, request: GradientRequest | None = None) -> AbstractContextManager[WorkerPool]:
        """Returns a context in which the pool of `session` may be used; see Session.visit."""

    async def open(self, connection: Connection, deadline: float | None) -> None:
        """Waits until `connection.start` sends at once; raises MseGradError. No-op if that may block."""

    async def pause(self, closed: Latch, pause_s: float) -> bool:
        """Waits `pause_s` seconds; returns at once with True when `closed` is set."""

    async def call(
        self, connection: Connection, method: str, message: bytes, *, info: CallInfo, deadline: float | None
    ) -> bytes:
        """Returns the answer of a unary RPC; raises MseGradError."""


class _BlockingWaiter(Waiter):
    blocks = True

    def visit(self, session: Session, request: GradientRequest | None = None) -> AbstractContextManager[WorkerPool]:
        return Visit(session, request)

    async def open(self, connection: Connection, deadline: float | None) -> None:
        return

    async def pause(self, closed: Latch, pause_s: float) -> bool:
        return closed.wait(pause_s)

    async def call(
        self, connection: Connection, method: str, message: bytes, *, info: CallInfo, deadline: float | None
    ) -> bytes:
        return connection.call(method, message, info=info, deadline=deadline)


BLOCKING: Waiter = _BlockingWaiter()
"""The waiter of threads; it has no state."""


async def open_for(assignment: WorkerAssignment, deadline: float | None, waiter: Waiter) -> None:
    """Opens the connection of a claim, which ends if that fails; raises MseGradError."""
    try:
        await waiter.open(assignment.connection, deadline)
    except BaseException as error:
        assignment.end(error if isinstance(error, MseGradError) else None)
        raise


def run(make: Callable[[], Coroutine[Any, Any, Value]]) -> Value:
    """Returns the result of the coroutine that `make` returns, which never suspends.

    A coroutine that a signal handler keeps from starting is reported as never awaited. So nothing that may call a
    handler comes between its making and its start: `make` is a function of Python, such as a lambda, and no partial.
    """
    try:
        make().send(None)
    except StopIteration as returned:
        value: Value = returned.value
        return value
    raise AssertionError("the coroutine was suspended outside of an event loop")
