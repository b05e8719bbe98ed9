"""A descriptor that takes long to close: a TCP connection that lingers until its peer reads.

A process may pass descriptors over a unix socket. Whoever drops the last reference closes the file: a receiver that has
no room for a descriptor, or that closes a socket with an unread one.
"""

from __future__ import annotations

import array
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress

__all__ = ["Lingering", "lingering"]

_LINGER_S = 3600  # so that nothing but `release` ends it


class Lingering:
    """The connection; at most one packet may carry it."""

    def __init__(self, connection: socket.socket, peer: socket.socket) -> None:
        self._connection = connection
        self._peer = peer

    def send_last(self, over: socket.socket, packet: bytes) -> None:
        """Sends a packet with the descriptor, which the receiver then holds alone; raises OSError."""
        rights = array.array("i", [self._connection.fileno()])
        try:
            over.sendmsg([packet], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
        except OSError:
            self.release()
            raise
        finally:
            self._connection.close()

    def release(self) -> None:
        """Lets it close, wherever that is tried."""
        with suppress(OSError):
            self._peer.shutdown(socket.SHUT_RDWR)
        self._peer.close()  # unread bytes reset the connection, and nothing is left to linger for
        self._connection.close()


@contextmanager
def lingering() -> Iterator[Lingering]:
    """Provides one within the `with`."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        connection = socket.create_connection(listener.getsockname())
        peer, _ = listener.accept()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, _LINGER_S))
    connection.setblocking(False)
    with suppress(BlockingIOError):
        while True:
            connection.send(bytes(1 << 16))
    connection.setblocking(True)  # only a blocking socket lingers
    it = Lingering(connection, peer)
    try:
        yield it
    finally:
        it.release()
