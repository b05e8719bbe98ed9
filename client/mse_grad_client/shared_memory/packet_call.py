"""A call over a unix socket, on which each packet is a message."""

from __future__ import annotations

import socket
from collections.abc import Callable

import grpc
from typing_extensions import override

from mse_grad_client.interrupts import raise_foreign
from mse_grad_client.shared_memory.local_socket import receive_soon, send_now, wait_readable
from mse_grad_client.stream.call import EndedCall
from mse_grad_client.stream.socket_call import SocketCall

__all__ = ["PacketCall"]


class PacketCall(SocketCall):
    """Sends in the thread that wakes it, and receives in the thread that reads, without gRPC.

    Args:
        connection: An open, blocking connection; see local_socket.bound_receives.
        pull: Returns the next message to send, or None if there is none now; called by one thread at a time.
        max_packet_bytes: Largest packet of the server.
    """

    def __init__(self, connection: socket.socket, pull: Callable[[], bytes | None], *, max_packet_bytes: int) -> None:
        super().__init__(connection)
        self._connection = connection
        self._pull = pull
        self._unsent: bytes | None = None
        self._buffer = bytearray(max_packet_bytes)

    @property
    @override
    def is_sending(self) -> bool:
        return self._unsent is not None

    @property
    @override
    def descriptor(self) -> int | None:
        number = self._connection.fileno()
        return number if number >= 0 else None  # it may have been closed meanwhile

    @override
    def __next__(self) -> bytes:
        try:
            try:
                size_bytes = self._receive()
            except ConnectionResetError:  # reported before the server's last packets, which may say why it has ended
                size_bytes = self._receive()
        except OSError as cause:
            raise_foreign(cause)
            raise EndedCall(grpc.StatusCode.UNAVAILABLE, str(cause)) from None
        if not size_bytes:
            raise StopIteration
        return bytes(memoryview(self._buffer)[:size_bytes])

    def _receive(self) -> int:
        while True:
            # The server may make room only once its answers are read: do whichever is possible first. A message that
            # another thread finds no room for while this one receives waits until the receive returns.
            while self._unsent is not None and not wait_readable(self._connection):
                with self._lock:
                    self._send()
            size_bytes = receive_soon(self._connection, self._buffer)
            if size_bytes is not None:
                return size_bytes

    @override
    def _send(self) -> None:
        while True:
            message = self._pull() if self._unsent is None else self._unsent
            if message is None:
                return
            try:
                self._unsent = None if send_now(self._connection, message) else message
            except OSError as error:  # the next read reports the end of the connection
                raise_foreign(error)
                return
            if self._unsent is not None:
                return
