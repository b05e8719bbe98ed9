"""A call over a socket of its own, without gRPC."""

from __future__ import annotations

import socket
import threading
from typing import Protocol

from typing_extensions import override

from mse_grad_client.interrupts import raise_foreign
from mse_grad_client.stream.call import Call

__all__ = ["SocketCall"]


class _Connection(Protocol):
    """What a call closes: a socket, or bytes to and from one."""

    def shutdown(self, how: int, /) -> None:
        """Closes one side or both; raises OSError if the connection has ended already."""


class SocketCall(Call):
    """Sends in the thread that wakes it, and receives in the thread that reads.

    Args:
        closes: The connection, to close either side.
    """

    def __init__(self, closes: _Connection) -> None:
        self._closes = closes
        self._lock = threading.Lock()

    @override
    def wake(self) -> None:
        with self._lock:
            self._send()

    @override
    def finish(self) -> None:
        """Closes this side unless a message, for which the kernel had no room, is still to be sent."""
        if not self.is_sending:
            self._shut_down(socket.SHUT_WR)

    @override
    def cancel(self) -> None:
        self._shut_down(socket.SHUT_RDWR)

    def _shut_down(self, how: int) -> None:
        try:
            self._closes.shutdown(how)
        except OSError as error:  # the connection has ended already
            raise_foreign(error)

    def _send(self) -> None:
        """Sends all messages; `_lock` is held. What the kernel has no room for, a later read sends."""
        raise NotImplementedError
