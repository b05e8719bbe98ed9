"""Stream messages as packets of a unix socket, from a client of the same host."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import grpc

from mse_grad_server.errors import MessageTooLarge

__all__ = ["MOST_PACKET_BYTES", "Packets", "close_after_reading"]

# Size of a packet: it fits the 208 KiB that Linux buffers on a unix socket by default.
MOST_PACKET_BYTES = 192 * 1024


def close_after_reading(connection: socket.socket) -> None:
    """Closes a non-blocking unix socket so that the client still reads every packet that the server sent.

    If packets are unread when a socket is closed, the connection is reset. The client would read the reset before the
    packets, and lose the reason of the end.
    """
    with suppress(OSError):  # the client is gone
        connection.shutdown(socket.SHUT_RD)  # from here on no packet arrives
        while connection.recv(1):
            pass
    connection.close()


class Packets:
    """Reads and writes of a stream over a socket, in place of gRPC's context; belongs to the event loop.

    Args:
        connection: Non-blocking SOCK_SEQPACKET socket; owned by this object.
        try_handle_inline: Fast path: called with each message while `read` is pending. Returns True if the message was
            handled and answered synchronously; then `read` stays pending. It spares a turn of the event loop, which is
            a sixth of a small gradient's time.
    """

    def __init__(self, connection: socket.socket, *, try_handle_inline: Callable[[bytes], bool]) -> None:
        self._try_handle_inline = try_handle_inline
        self._connection = connection
        self._loop = asyncio.get_running_loop()
        # One byte more than a packet may have, to recognise a packet that is too large.
        self._buffer = bytearray(MOST_PACKET_BYTES + 1)
        self._message: asyncio.Future[Any] | None = None
        self._writable: asyncio.Future[None] | None = None
        self._has_reader = False
        self._is_closed = False

    async def read(self) -> Any:
        """Returns the next message, or EOF after either side has closed the connection; raises MessageTooLarge."""
        message = self._receive()
        if message is not None:
            return message
        self._message = self._loop.create_future()
        if not self._has_reader:
            self._has_reader = True
            self._loop.add_reader(self._connection, self._on_readable)
        return await self._message

    async def write(self, message: bytes) -> None:
        """Sends a message; returns when the kernel has it. If the client is gone, the message is lost."""
        while not self.write_now(message):
            await self._until_writable()

    def write_now(self, message: bytes) -> bool:
        """Sends a message, or returns False if the socket has no room for it now."""
        if not self._is_closed:
            try:
                self._connection.send(message, socket.MSG_NOSIGNAL)
            except BlockingIOError:
                return False
            except OSError:  # the connection has ended; the next read reports it
                pass
        return True

    def close(self) -> None:
        """Closes the connection; a second call does nothing."""
        if self._is_closed:
            return
        self._is_closed = True
        # The callback holds the stream, which holds this object: the cycle would keep the stream in memory.
        self._try_handle_inline = lambda message: False
        self._remove_reader()
        self._loop.remove_writer(self._connection)
        close_after_reading(self._connection)
        if self._message is not None and not self._message.done():
            self._message.set_result(grpc.aio.EOF)
        if self._writable is not None and not self._writable.done():
            self._writable.set_result(None)

    def _receive(self) -> Any:
        """Returns the next message, EOF, or None if no message has arrived; raises MessageTooLarge."""
        if self._is_closed:
            return grpc.aio.EOF
        try:
            size_bytes = self._connection.recv_into(self._buffer)
        except BlockingIOError:
            return None
        except OSError:  # a connection that was reset has ended
            return grpc.aio.EOF
        if size_bytes > MOST_PACKET_BYTES:
            raise MessageTooLarge(f"a packet has at most {MOST_PACKET_BYTES} bytes; send larger messages over gRPC")
        return bytes(memoryview(self._buffer)[:size_bytes]) if size_bytes else grpc.aio.EOF

    def _on_readable(self) -> None:
        waiting = self._message
        if waiting is None or waiting.done():
            # The reader stays registered until a packet arrives while no `read` is pending: to add and remove it for
            # each packet would take as long as to receive the packet.
            self._remove_reader()
            return
        try:
            message = self._receive()
            if message is not None and (message is grpc.aio.EOF or not self._try_handle_inline(message)):
                waiting.set_result(message)
        except Exception as error:  # noqa: BLE001 - `read` raises it
            waiting.set_exception(error)

    def _remove_reader(self) -> None:
        if self._has_reader:
            self._has_reader = False
            self._loop.remove_reader(self._connection)

    async def _until_writable(self) -> None:
        self._writable = self._loop.create_future()
        self._loop.add_writer(self._connection, self._on_writable, self._writable)
        try:
            await self._writable
        finally:
            if not self._is_closed:
                self._loop.remove_writer(self._connection)

    def _on_writable(self, waiting: asyncio.Future[None]) -> None:
        if not waiting.done():
            waiting.set_result(None)
