"""Stream messages as packets of a unix socket, from a client of the same host."""

from __future__ import annotations

from typing import Any

import grpc
from typing_extensions import override

from mse_grad_server.direct.packet_socket import PacketSocket
from mse_grad_server.direct.socket_stream import DirectConnection, TryInline
from mse_grad_server.errors import MessageTooLarge, SharedMemoryUnusable

__all__ = ["MOST_PACKET_BYTES", "Packets"]

# Size of a packet: it fits the 208 KiB that Linux buffers on a unix socket by default.
MOST_PACKET_BYTES = 192 * 1024


class Packets(DirectConnection):
    """A connection on which each packet is a message; belongs to the event loop.

    Args:
        connection: The connection; owned by this object.
        try_handle_inline: See DirectConnection.
    """

    def __init__(self, connection: PacketSocket, *, try_handle_inline: TryInline) -> None:
        super().__init__(connection.fileno(), try_handle_inline=try_handle_inline)
        self._connection = connection
        # One byte more than a packet may have, to recognise a packet that is too large.
        self._buffer = bytearray(MOST_PACKET_BYTES + 1)

    @override
    def _receive(self) -> Any:
        if self._is_closed:
            return grpc.aio.EOF
        try:
            if self._connection.next_carries_descriptors():
                raise SharedMemoryUnusable("a packet of requests carries no descriptors; memory has its own connection")
            size_bytes = self._connection.receive_into(self._buffer)
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
            self._connection.send(message)
        except BlockingIOError:
            return False
        except OSError:  # the connection has ended; the next read reports it
            pass
        return True

    @override
    def _close_socket(self) -> None:
        self._connection.close()
