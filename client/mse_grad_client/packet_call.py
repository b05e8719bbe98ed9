"""A stream over a unix socket: each packet is a message. See call.Call."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from contextlib import suppress

import grpc

from mse_grad_client.call import EndedCall
from mse_grad_client.segment import comes_before_room, send_now

__all__ = ["PacketCall"]


class PacketCall:
    """Sends in the thread that wakes it and receives in the thread that reads, without gRPC."""

    def __init__(self, connection: socket.socket, pull: Callable[[], bytes | None], *, most_bytes: int) -> None:
        """Takes an open connection.

        Args:
            connection: Blocking.
            pull: Returns the next message to send, or None where there is none now; called by one thread at a time.
            most_bytes: Bytes of a packet at most.
        """
        self._connection = connection
        self._pull = pull
        self._lock = threading.Lock()
        self._unsent: bytes | None = None
        self._buffer = bytearray(most_bytes)

    @property
    def is_sending(self) -> bool:
        """See Call."""
        return self._unsent is not None

    def wake(self) -> None:
        """See Call."""
        with self._lock:
            self._send()

    def cancel(self) -> None:
        """See Call."""
        with suppress(OSError):  # it has ended already
            self._connection.shutdown(socket.SHUT_RDWR)

    def __next__(self) -> bytes:
        """See Call."""
        try:
            # The server may wait for its answers to be read before it makes room: what comes first is done first.
            while self._unsent is not None and not comes_before_room(self._connection):
                with self._lock:
                    self._send()
            size_bytes = self._connection.recv_into(self._buffer)
        except OSError as cause:
            raise EndedCall(grpc.StatusCode.UNAVAILABLE, str(cause)) from None
        if not size_bytes:
            raise StopIteration
        return bytes(memoryview(self._buffer)[:size_bytes])

    def _send(self) -> None:
        """Sends what there is; `_lock` is held. What the kernel has no room for now, a read sends later."""
        while True:
            message = self._pull() if self._unsent is None else self._unsent
            if message is None:
                return
            try:
                self._unsent = None if send_now(self._connection, message) else message
            except OSError:  # the next read says that it has ended
                return
            if self._unsent is not None:
                return
