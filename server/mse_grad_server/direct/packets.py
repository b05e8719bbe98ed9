"""Stream messages as packets of a unix socket, from a client of the same host."""

from __future__ import annotations

import socket
from contextlib import suppress
from typing import Any

import grpc
from typing_extensions import override

from mse_grad_server.direct.connection import DirectConnection, TryInline
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


class Packets(DirectConnection):
    """A connection on which each packet is a message; belongs to the event loop.

    Args:
        connection: Non-blocking SOCK_SEQPACKET socket; owned by this object.
        try_handle_inline: See DirectConnection.
    """

    def __init__(self, connection: socket.socket, *, try_handle_inline: TryInline) -> None:
        super().__init__(connection.fileno(), try_handle_inline=try_handle_inline)
        self._connection = connection
        # One byte more than a packet may have, to recognise a packet that is too large.
        self._buffer = bytearray(MOST_PACKET_BYTES + 1)

    @override
    def _receive(self) -> Any:
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

    @override
    def _send(self, message: bytes) -> bool:
        try:
            self._connection.send(message, socket.MSG_NOSIGNAL)
        except BlockingIOError:
            return False
        except OSError:  # the connection has ended; the next read reports it
            pass
        return True

    @override
    def _close_socket(self) -> None:
        close_after_reading(self._connection)
