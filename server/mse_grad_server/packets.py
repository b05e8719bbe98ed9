"""A connection on which a client of the same host sends requests: each packet is a message of a stream."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any

import grpc

from mse_grad_server.errors import MessageTooLarge

__all__ = ["MOST_PACKET_BYTES", "Packets"]

# Fits the 208 KiB that Linux buffers on a unix socket unless told otherwise.
MOST_PACKET_BYTES = 192 * 1024


class Packets:
    """What a stream reads and writes, in place of gRPC's context. Belongs to the event loop; owns the socket."""

    take_alone: Callable[[bytes], bool]
    """Offered each message while somebody waits for one; returns whether that was all it takes.

    What is answered so spares a task of the event loop its turn, a sixth of a small gradient's time.
    """

    def __init__(self, connection: socket.socket) -> None:
        self.take_alone = lambda message: False
        self._connection = connection
        self._loop = asyncio.get_running_loop()
        # One more than a packet may have, which tells one that is too large.
        self._buffer = bytearray(MOST_PACKET_BYTES + 1)
        self._message: asyncio.Future[Any] | None = None
        self._writable: asyncio.Future[None] | None = None
        self._is_watched = False
        self._is_closed = False

    async def read(self) -> Any:
        """Returns the next message, or EOF once either side has ended the connection; raises MessageTooLarge."""
        message = self._receive()
        if message is not None:
            return message
        self._message = self._loop.create_future()
        if not self._is_watched:
            self._is_watched = True
            self._loop.add_reader(self._connection, self._came)
        return await self._message

    async def write(self, message: bytes) -> None:
        """Sends a message; returns once the kernel has it. What a client is sent that is gone is lost."""
        while not self.write_now(message):
            await self._until_writable()

    def write_now(self, message: bytes) -> bool:
        """Sends a message, or returns False where there is no room for it now."""
        if not self._is_closed:
            try:
                self._connection.send(message, socket.MSG_NOSIGNAL)
            except BlockingIOError:
                return False
            except OSError:  # the next read says that it has ended
                pass
        return True

    def close(self) -> None:
        """Ends the connection; a second call does nothing."""
        if self._is_closed:
            return
        self._is_closed = True
        self._unwatch()
        self._loop.remove_writer(self._connection)
        self._connection.close()
        if self._message is not None and not self._message.done():
            self._message.set_result(grpc.aio.EOF)
        if self._writable is not None and not self._writable.done():
            self._writable.set_result(None)

    def _receive(self) -> Any:
        """Returns the next message, EOF, or None where none is there; raises MessageTooLarge."""
        if self._is_closed:
            return grpc.aio.EOF
        try:
            size_bytes = self._connection.recv_into(self._buffer)
        except BlockingIOError:
            return None
        except OSError:  # a connection that was reset has ended
            return grpc.aio.EOF
        if size_bytes > MOST_PACKET_BYTES:
            raise MessageTooLarge(f"a packet has at most {MOST_PACKET_BYTES} bytes; send what is larger over gRPC")
        return bytes(memoryview(self._buffer)[:size_bytes]) if size_bytes else grpc.aio.EOF

    def _came(self) -> None:
        waiting = self._message
        if waiting is None or waiting.done():
            # Watched until something comes that nobody waits for: to begin and end it for every packet would take as
            # long as to receive it.
            self._unwatch()
            return
        try:
            message = self._receive()
            if message is not None and (message is grpc.aio.EOF or not self.take_alone(message)):
                waiting.set_result(message)
        except Exception as error:  # noqa: BLE001 - it is for whoever waits for the message
            waiting.set_exception(error)

    def _unwatch(self) -> None:
        if self._is_watched:
            self._is_watched = False
            self._loop.remove_reader(self._connection)

    async def _until_writable(self) -> None:
        self._writable = self._loop.create_future()
        self._loop.add_writer(self._connection, self._has_room, self._writable)
        try:
            await self._writable
        finally:
            if not self._is_closed:
                self._loop.remove_writer(self._connection)

    def _has_room(self, waiting: asyncio.Future[None]) -> None:
        if not waiting.done():
            waiting.set_result(None)
