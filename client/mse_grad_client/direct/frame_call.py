"""A call over a direct connection, on which each message stands behind its length."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable

import grpc
from typing_extensions import override

from mse_grad.frames import FrameBuffer, drop_sent, head
from mse_grad.tensor import Buffer
from mse_grad_client.direct.wire import Wire
from mse_grad_client.interrupts import raise_foreign
from mse_grad_client.stream.call import Call, EndedCall

__all__ = ["FrameCall"]


class FrameCall(Call):
    """Sends in the thread that wakes it, and receives in the thread that reads, without gRPC.

    Args:
        wire: An open connection, after `begin`.
        pull: Returns the buffers of the next message to send, or None if there is none now; called by one thread at a
            time.
        most_bytes: Largest message of the server.
    """

    def __init__(self, wire: Wire, pull: Callable[[], list[Buffer] | None], *, most_bytes: int) -> None:
        self._wire = wire
        self._pull = pull
        self._lock = threading.Lock()
        self._unsent: list[Buffer] = []
        # Whether a thread was interrupted between sending bytes and noting how many: then nobody may send the rest.
        self._is_torn = False
        self._frames = FrameBuffer(most_bytes=most_bytes)

    @property
    @override
    def is_sending(self) -> bool:
        return bool(self._unsent)

    @property
    @override
    def descriptor(self) -> int | None:
        return None  # a readable socket may hold only a part of a message, for which a loop must not wait

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

    @override
    def __next__(self) -> bytes:
        frames = self._frames
        try:
            while (message := frames.next_message()) is None:
                # The server may make room only once its answers are read: do whichever is possible first.
                while self._unsent and not self._wire.wait():
                    with self._lock:
                        self._send()
                size_bytes = self._wire.receive(frames.room())
                if size_bytes:
                    frames.received(size_bytes)
                elif size_bytes is not None:
                    raise StopIteration
        except (OSError, ValueError) as cause:  # ValueError: a message is too large, or this side has closed the socket
            raise_foreign(cause)
            raise EndedCall(grpc.StatusCode.UNAVAILABLE, str(cause)) from None
        return message

    def _shut_down(self, how: int) -> None:
        try:
            self._wire.shut_down(how)
        except OSError as error:  # the connection has ended already
            raise_foreign(error)

    def _send(self) -> None:
        """Sends all messages; `_lock` is held. What the kernel has no room for, a later read sends."""
        if self._is_torn:
            self._shut_down(socket.SHUT_RDWR)
            return
        while True:
            if not self._unsent:
                buffers = self._pull()
                if buffers is None:
                    return
                self._unsent = [head(sum(map(len, buffers))), *buffers]
            self._is_torn = True
            try:
                sent = self._wire.send(self._unsent)
            except OSError as error:  # the next read reports the end of the connection
                raise_foreign(error)
                self._unsent = []
                return
            drop_sent(self._unsent, sent)
            self._is_torn = False
            if not sent:
                return
