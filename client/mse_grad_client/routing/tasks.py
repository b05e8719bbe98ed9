"""Waits of calls by asyncio tasks."""

from __future__ import annotations

import asyncio
import copy
import threading
import time
import types
from collections.abc import Callable, Coroutine, Generator
from types import TracebackType
from typing import Any, TypeVar

import grpc
from typing_extensions import override

from mse_grad.reasons import Reason
from mse_grad_client.attempt import Readable, Task
from mse_grad_client.errors import ClientClosed, DeadlineExceeded, MseGradError
from mse_grad_client.interceptor import CallInfo
from mse_grad_client.interrupts import Latch, Releasable
from mse_grad_client.request import GradientRequest
from mse_grad_client.retry import Awaited, StreamStale
from mse_grad_client.routing.connection import Connection
from mse_grad_client.routing.event_loop import Loop
from mse_grad_client.routing.rpc import UnaryCall
from mse_grad_client.routing.session import Session
from mse_grad_client.routing.transport import Transport
from mse_grad_client.routing.waiter import Waiter
from mse_grad_client.routing.worker_pool import WorkerPool

__all__ = ["TaskWaiter", "Tasks"]

Value = TypeVar("Value")


class Tasks:
    """The calls of one client by tasks, in any number of event loops. Thread-safe.

    Args:
        transport: The transport of the client.
    """

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        # No lock guards these: a fork in another thread could copy it locked.
        self._loops: dict[asyncio.AbstractEventLoop, Loop] = {}
        self._openings: dict[Connection, _Opening] = {}

    def waiter(self) -> TaskWaiter:
        """Returns the waits of one call in the running event loop."""
        running = asyncio.get_running_loop()
        loop = self._loops.get(running)
        if loop is None:
            for other in list(self._loops):
                if other.is_closed():
                    self._loops.pop(other, None)
            loop = self._loops[running] = Loop(running, self._transport)
        return TaskWaiter(self, loop)

    @types.coroutine
    def run(
        self, make: Callable[[], Coroutine[Any, Any, Value]], request: GradientRequest | None = None
    ) -> Generator[Any, None, Value]:
        """Returns the result of a coroutine, each step of which is a visit of the thread; see Session.visit.

        Between two steps the loop does other work. An interrupt there does not concern the client. An interrupt in a
        step ends the task, and the session recovers as it does for a thread.

        Args:
            make: Makes a coroutine of this package that waits through a `TaskWaiter`; see waiter.run.
            request: The request that it is about, if it is one.
        """
        core: Coroutine[Any, Any, Value] | None = None
        thrown: BaseException | None = None
        while True:
            waits_for: Any = None
            ended: BaseException | None = None
            with self._transport.visit(request):
                try:
                    if core is None:
                        waits_for = (core := make()).send(None)
                    else:
                        waits_for = core.send(None) if thrown is None else core.throw(thrown)
                except StopIteration as returned:
                    value: Value = returned.value
                    return value
                except (asyncio.CancelledError, GeneratorExit) as error:
                    ended = error
            if ended is not None:
                raise ended
            try:
                yield waits_for
                thrown = None
            except BaseException as error:  # noqa: BLE001 - a cancellation: `core` cancels the request
                thrown = error

    def opening(self, connection: Connection) -> _Opening:
        """Returns the opening of `connection` that is under way, in a thread of its own; begins it first."""
        begun = _Opening()
        opening = self._openings.setdefault(connection, begun)
        if opening is begun:
            try:
                threading.Thread(
                    target=self._open, args=(connection, opening), name="mse-grad-opener", daemon=True
                ).start()
            except BaseException as error:
                # The system starts no thread, or an interrupt came: the next task tries again. The interpreter starts
                # none at its end, but it has closed the client then.
                self._openings.pop(connection, None)
                if isinstance(error, RuntimeError) and self._transport.closed.is_set():
                    raise ClientClosed("the client was closed") from error
                raise
        return opening

    def _open(self, connection: Connection, opening: _Opening) -> None:
        try:
            with self._transport.visit():
                connection.open()
        except Exception as error:  # noqa: BLE001 - the tasks raise it; `open_channel` is the user's
            opening.error = error
        finally:
            self._openings.pop(connection, None)
            opening.done.set()


class _Opening:
    """The opening of a connection.

    Attributes:
        done: Set at its end.
        error: Why it failed; None if it did not.
    """

    def __init__(self) -> None:
        self.done = Latch()
        self.error: Exception | None = None


class _Inside:
    """The context of a task inside of a session: `steps` makes the visits, one for each step of the task."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def __enter__(self) -> WorkerPool:
        return self._session.pool

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        return


class TaskWaiter(Waiter, Task, Releasable):
    """Waits of one call by a task.

    Args:
        tasks: The calls of the client.
        loop: The loop of the task.
    """

    blocks = False

    def __init__(self, tasks: Tasks, loop: Loop) -> None:
        self._tasks = tasks
        self._loop = loop
        self._future: asyncio.Future[None] | None = None

    @override
    def wake(self) -> None:
        self._loop.wake(self)

    release = wake  # as a latch calls it

    def look(self) -> None:
        """Lets the task run, in the thread of its loop."""
        future = self._future
        if future is not None and not future.done():
            future.set_result(None)

    @override
    def send_soon(self, stream: Readable) -> None:
        self._loop.send_soon(stream)

    @override
    def reads(self, stream: Readable) -> bool:
        return self._loop.reads(stream)

    @override
    async def until(self, is_over: Callable[[], bool], deadline: float | None) -> bool:
        timer = None
        try:
            while not is_over():
                # No thread misses this future: `look` runs in this thread, and so only once the task is suspended.
                self._future = self._loop.future()
                if deadline is not None:
                    left_s = deadline - time.monotonic()
                    if left_s <= 0:
                        return False
                    timer = self._loop.call_later(left_s, self.look)
                await self._future
                if timer is not None:
                    timer.cancel()
            return True
        finally:
            self._future = None
            if timer is not None:
                timer.cancel()

    @override
    def visit(self, session: Session, request: GradientRequest | None = None) -> Any:
        return _Inside(session)

    @override
    async def open(self, connection: Connection, deadline: float | None) -> None:
        await self._arrive(connection, deadline)
        if connection.is_open:
            return
        opening = self._tasks.opening(connection)
        if not await self._set(opening.done, deadline):
            raise DeadlineExceeded(
                f"{connection.address} did not open a stream within the time given", reason=Reason.DEADLINE_EXCEEDED
            )
        if opening.error is not None:
            raise copy.copy(opening.error) if isinstance(opening.error, MseGradError) else opening.error
        if not connection.is_open:
            raise StreamStale(f"{connection.address} ended the stream at once", reason=Reason.CONNECTION_LOST)

    @override
    async def pause(self, closed: Latch, pause_s: float) -> bool:
        return await self._set(closed, time.monotonic() + pause_s)

    @override
    async def call(
        self, connection: Connection, method: str, message: bytes, *, info: CallInfo, deadline: float | None
    ) -> bytes:
        await self._arrive(connection, deadline)
        call = connection.begin_call(method, message, info=info, deadline=deadline)
        try:
            call.add_done_callback(self._ended)
            await self.until(call.done, None)
            return call.result()
        except grpc.RpcError as error:
            raise connection.failure(error) from error
        finally:
            if not call.done():
                call.cancel()

    async def in_thread(self, function: Callable[[], None]) -> None:
        """Waits for `function` in a thread of its own."""
        done = Latch()

        def run() -> None:
            try:
                function()
            finally:
                done.set()

        threading.Thread(target=run, name="mse-grad-closer", daemon=True).start()
        await self._set(done, None)

    async def _arrive(self, connection: Connection, deadline: float | None) -> None:
        arrival = connection.arrival()
        if arrival is not None:
            with arrival as waiting:
                waiting.end(await self._set(waiting.over, deadline))
            raise Awaited(f"a server of {connection.address} is ready")

    def _ended(self, call: UnaryCall) -> None:
        self.wake()

    async def _set(self, latch: Latch, deadline: float | None) -> bool:
        latch.tell(self)
        try:
            return await self.until(latch.is_set, deadline)
        finally:
            latch.forget(self)
