"""A call over a direct connection, on which each message stands behind its length."""

from __future__ import annotations

import socket
from collections.abc import Callable

import grpc
from typing_extensions import override

from mse_grad.frames import FrameBuffer, drop_sent, head
from mse_grad.tensor import Buffer
from mse_grad_client.direct.wire import Wire
from mse_grad_client.interrupts import raise_foreign
from mse_grad_client.stream.call import EndedCall
from mse_grad_client.stream.socket_call import SocketCall

__all__ = ["FrameCall"]


class FrameCall(SocketCall):
    """Sends in the thread that wakes it, and receives in the thread that reads, without gRPC.

    Args:
        wire: An open connection, after `begin`.
        pull: Returns the buffers of the next message to send, or None if there is none now; called by one thread at a
            time.
        most_bytes: Largest message of the server.
    """

    def __init__(self, wire: Wire, pull: Callable[[], list[Buffer] | None], *, most_bytes: int) -> None:
        super().__init__(wire)
        self._wire = wire
        self._pull = pull
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

    @override
    def _send(self) -> None:
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
