"""Connections on which everything was said: they are read until the client has it, and closed then."""

from __future__ import annotations

import asyncio
import fcntl
import socket
import struct
import termios
from contextlib import suppress
from functools import partial

__all__ = ["Lingering"]

# Longest time for which a closed connection is read on, and most of such connections; the oldest one makes room.
_LONGEST_S = 5.0
_MOST_CONNECTIONS = 64
_LOOK_S = 0.01
_ROOM_BYTES = 64 * 1024


class Lingering:
    """Connections that the server has closed while the client may still send; belongs to the event loop.

    If bytes arrive at a socket that is closed, the kernel resets the connection and drops what it has not sent yet: the
    last answers, and the reason of the end.
    """

    def __init__(self) -> None:
        self._connections: dict[asyncio.Task[None], socket.socket] = {}
        # One for all connections: nobody looks at what is in it.
        self._room = bytearray(_ROOM_BYTES)

    def close_later(self, connection: socket.socket) -> None:
        """Ends the sending side, drops what still arrives, and closes the connection once the client has closed it.

        Args:
            connection: A socket that does not block; owned by this object from now on.
        """
        try:
            connection.shutdown(socket.SHUT_WR)
        except OSError:  # the client is gone
            connection.close()
            return
        if len(self._connections) >= _MOST_CONNECTIONS:
            oldest = next(iter(self._connections))
            del self._connections[oldest]
            oldest.cancel()
        task = asyncio.get_running_loop().create_task(self._drop_what_arrives(connection))
        self._connections[task] = connection
        task.add_done_callback(partial(self._ended, connection))

    async def close(self) -> None:
        """Waits, not for long, until the clients have everything that was sent, and closes all connections."""
        give_up_s = asyncio.get_running_loop().time() + _LONGEST_S
        while any(map(_has_unsent, self._connections.values())) and asyncio.get_running_loop().time() < give_up_s:
            await asyncio.sleep(_LOOK_S)
        tasks = list(self._connections)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def _ended(self, connection: socket.socket, task: asyncio.Task[None]) -> None:
        self._connections.pop(task, None)
        connection.close()

    async def _drop_what_arrives(self, connection: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        with suppress(OSError):  # TimeoutError is one; or the client is gone
            async with asyncio.timeout(_LONGEST_S):
                while await loop.sock_recv_into(connection, self._room):
                    await asyncio.sleep(0)  # what has arrived already is read without a turn of the loop


def _has_unsent(connection: socket.socket) -> bool:
    """Returns whether the client's system has not acknowledged everything."""
    try:
        (unsent_bytes,) = struct.unpack("@i", fcntl.ioctl(connection, termios.TIOCOUTQ, bytes(4)))
    except (OSError, ValueError):  # it was closed meanwhile
        return False
    return bool(unsent_bytes)
