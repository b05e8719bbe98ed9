"""Connections of the metrics: a bounded number, with one request each, also when no descriptor is free."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Awaitable, Callable
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING

from structlog.typing import FilteringBoundLogger

from mse_grad_server.metrics.http import END_OF_HEAD, text
from mse_grad_server.metrics.http import asked as asked_of
from mse_grad_server.metrics.tls import MetricsTls, TlsConnection

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

__all__ = ["Connections"]

# Beyond this number of connections the one that has been idle longest is closed.
_MOST_CONNECTIONS = 32
_MOST_HEAD_BYTES = 16 * 1024
# Time that a caller has to send its request, and again to read its answer.
_PATIENCE_S = 5.0
# Pause before accepting is tried again when no descriptor was free.
_RETRY_S = 0.2
_OUT_OF = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class Connections:
    """Accepts connections and serves one request on each. Belongs to its event loop.

    Args:
        loop: The event loop.
        listener: Socket that listens.
        answer: Returns the response to a request.
        log: Receives a line when no descriptor is free.
        tls: Certificate for HTTPS; None for HTTP.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        listener: socket.socket,
        answer: Callable[[WSGIEnvironment], Awaitable[bytes]],
        log: FilteringBoundLogger,
        tls: MetricsTls | None,
    ) -> None:
        self._tls = tls
        self._loop = loop
        self._listener = listener
        self._answer = answer
        self._log = log
        self._tasks: set[asyncio.Task[None]] = set()
        # Candidates for closing, oldest first. Connections that have not sent their request go before the others.
        self._silent: dict[asyncio.Task[None], None] = {}
        self._answered: dict[asyncio.Task[None], None] = {}
        # Reserve descriptor, closed when no other is free, so that a probe can still be accepted.
        self._spare: int | None = None
        self._was_out = False

    def open(self) -> None:
        """Starts to accept."""
        self._keep_spare()
        self._loop.add_reader(self._listener, self._accept)

    def close(self) -> None:
        """Ends every connection."""
        self._loop.remove_reader(self._listener)
        self._loop.run_until_complete(self._end_tasks())
        self._give_up_spare()

    async def _end_tasks(self) -> None:
        # Tasks that ended before are removed by callbacks, so the set may become empty until this coroutine begins.
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        if self._tls is not None:
            await self._tls.close()

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError as error:
            if error.errno in _OUT_OF:
                self._is_out(error)
            return  # any other error: the caller has gone already
        if self._spare is not None:
            self._was_out = False
        connection.setblocking(False)
        task = self._loop.create_task(self._serve(connection))
        self._tasks.add(task)
        self._silent[task] = None
        task.add_done_callback(self._ended)
        if len(self._silent) + len(self._answered) > _MOST_CONNECTIONS:
            self._make_room()

    def _is_out(self, error: OSError) -> None:
        if not self._was_out:
            self._was_out = True
            self._log.error("metrics_cannot_accept", message=f"connections wait: {error.strerror}")
        if self._spare is not None:
            self._give_up_spare()
            self._accept()
            return
        self._make_room()
        # The listener stays readable; without this pause the loop would spin.
        self._loop.remove_reader(self._listener)
        self._loop.call_later(_RETRY_S, self._loop.add_reader, self._listener, self._accept)

    def _make_room(self) -> None:
        for tasks in (self._silent, self._answered):
            if tasks:
                task = next(iter(tasks))
                del tasks[task]
                task.cancel()
                return

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._silent.pop(task, None)
        self._answered.pop(task, None)
        self._keep_spare()

    def _keep_spare(self) -> None:
        if self._spare is None:
            with suppress(OSError):  # still none free
                self._spare = os.open(os.devnull, os.O_RDONLY)

    def _give_up_spare(self) -> None:
        if self._spare is not None:
            os.close(self._spare)
            self._spare = None

    async def _serve(self, accepted: socket.socket) -> None:
        # TimeoutError is an OSError too.
        with ExitStack() as open_parts, suppress(OSError, asyncio.CancelledError):
            open_parts.enter_context(accepted)
            async with asyncio.timeout(_PATIENCE_S):
                connection: TlsConnection | _PlainConnection
                if self._tls is None:
                    connection = _PlainConnection(accepted)
                else:
                    connection = await TlsConnection.accept(accepted, await self._tls.context())
                    open_parts.callback(connection.close)
                head = await self._head(connection)
            task = asyncio.current_task()
            assert task is not None
            del self._silent[task]
            self._answered[task] = None
            asked = asked_of(head)
            answer = text("400 Bad Request", "this is not an HTTP/1.1 request\n")
            if asked is not None:
                answer = await self._answer(asked)
            async with asyncio.timeout(_PATIENCE_S):
                await connection.send(answer)
                await connection.end()

    async def _head(self, connection: TlsConnection | _PlainConnection) -> bytes:
        head = b""
        while not END_OF_HEAD.search(head) and len(head) <= _MOST_HEAD_BYTES:
            received = await connection.receive(_MOST_HEAD_BYTES)
            if not received:
                raise ConnectionAbortedError
            head += received
        return head


class _PlainConnection:
    """Connection without TLS; its socket belongs to the caller."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection

    async def receive(self, most_bytes: int) -> bytes:
        return await asyncio.get_running_loop().sock_recv(self._socket, most_bytes)

    async def send(self, message: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self._socket, message)

    async def end(self) -> None:
        self._socket.shutdown(socket.SHUT_WR)
