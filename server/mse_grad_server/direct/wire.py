"""Bytes to and from one client over TCP, plain or over TLS, on sockets that do not block."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Sequence
from typing import Any

from typing_extensions import override

from mse_grad.tensor import Buffer
from mse_grad.tls_socket import BATCH_BYTES, TlsSocket
from mse_grad_server.direct.lingering import Lingering

__all__ = ["TlsWire", "Wire"]


class Wire:
    """A plain TCP connection; belongs to the event loop.

    Args:
        connection: Connected socket; owned by this object, and from now on it does not block.
        lingering: Closes it in the end.
    """

    def __init__(self, connection: socket.socket, lingering: Lingering) -> None:
        self._lingering = lingering
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._connection = connection

    @property
    def has_pending(self) -> bool:
        """Whether bytes were received of which the descriptor tells nothing."""
        return False

    def fileno(self) -> int:
        """Returns the descriptor, for the event loop."""
        return self._connection.fileno()

    async def open(self) -> None:
        """Ends the handshake; raises OSError if it fails."""

    def receive_into(self, room: memoryview) -> int | None:
        """Receives up to the size of `room`.

        Returns:
            The number of bytes, 0 at the end of the connection, or None if nothing has arrived.

        Raises:
            OSError: The connection has failed.
        """
        try:
            return self._connection.recv_into(room)
        except BlockingIOError:
            return None

    def send(self, buffers: Sequence[Buffer]) -> int:
        """Sends as much of `buffers`, one after the other, as the kernel has room for; raises OSError.

        Args:
            buffers: They begin with the bytes that earlier calls did not count as sent.

        Returns:
            The number of bytes.
        """
        try:
            return self._connection.sendmsg(buffers, (), socket.MSG_NOSIGNAL)
        except BlockingIOError:
            return 0

    def close(self) -> None:
        """Closes the connection so that the client still reads what was sent."""
        self._lingering.close_later(self._connection)

    async def receive_exactly(self, size_bytes: int) -> bytes:
        """Returns the next `size_bytes`; raises OSError if the connection ends before."""
        found = bytearray(size_bytes)
        filled = 0
        while filled < size_bytes:
            received = self.receive_into(memoryview(found)[filled:])
            if received is None:
                await self._until_readable()
            elif received:
                filled += received
            else:
                raise ConnectionError("the client has closed the connection")
        return bytes(found)

    async def _until_readable(self) -> None:
        loop = asyncio.get_running_loop()
        readable: asyncio.Future[None] = loop.create_future()
        loop.add_reader(self.fileno(), _complete, readable)
        try:
            await readable
        finally:
            loop.remove_reader(self.fileno())

    async def _until_writable(self) -> None:
        loop = asyncio.get_running_loop()
        writable: asyncio.Future[None] = loop.create_future()
        loop.add_writer(self.fileno(), _complete, writable)
        try:
            await writable
        finally:
            loop.remove_writer(self.fileno())


class TlsWire(Wire):
    """A TCP connection over TLS; belongs to the event loop.

    Args:
        connection: Connected socket; owned by this object.
        context: Context with the server's certificate.
        lingering: Closes it in the end.
    """

    # One for all connections: the event loop empties it before it reads another one.
    _room = bytearray(BATCH_BYTES)

    def __init__(self, connection: socket.socket, context: ssl.SSLContext, lingering: Lingering) -> None:
        super().__init__(connection, lingering)
        self._tls = TlsSocket(connection, context, server_side=True, room=self._room)

    @property
    @override
    def has_pending(self) -> bool:
        return self._tls.may_hold_more

    @override
    async def open(self) -> None:
        while not self._tls.shake_hands():
            await (self._until_writable() if self._tls.has_unsent else self._until_readable())

    @override
    def receive_into(self, room: memoryview) -> int | None:
        return self._tls.receive_into(room)

    @override
    def send(self, buffers: Sequence[Buffer]) -> int:
        return self._tls.send(buffers)


def _complete(waiting: asyncio.Future[Any]) -> None:
    if not waiting.done():
        waiting.set_result(None)
