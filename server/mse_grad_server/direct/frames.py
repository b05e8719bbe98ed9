"""Stream messages as frames on a TCP connection."""

from __future__ import annotations

from typing import Any

import grpc
from typing_extensions import override

from mse_grad.frames import FrameBuffer, drop_sent, head
from mse_grad.tensor import Buffer
from mse_grad_server.direct.socket_stream import DirectConnection, TryInline
from mse_grad_server.direct.wire import Wire
from mse_grad_server.errors import DeadlineExceeded
from mse_grad_server.process.clock import Clock, Timer

__all__ = ["Frames"]


class Frames(DirectConnection):
    """A connection on which each message stands behind its length; belongs to the event loop.

    Args:
        wire: The connection, after its greeting; owned by this object.
        clock: Clock.
        most_bytes: Largest message.
        stall_timeout_s: Longest time for a message to arrive, and for the client to make room for one.
        try_handle_inline: See DirectConnection.
    """

    def __init__(
        self, wire: Wire, clock: Clock, *, most_bytes: int, stall_timeout_s: float, try_handle_inline: TryInline
    ) -> None:
        super().__init__(wire.fileno(), try_handle_inline=try_handle_inline)
        self._wire = wire
        self._clock = clock
        self._stall_timeout_s = stall_timeout_s
        self._frames = FrameBuffer(most_bytes=most_bytes)
        self._unsent: list[Buffer] = []
        self._has_writer = False
        # Runs while a message is half received, or half sent.
        self._receiving: Timer | None = None
        self._sending: Timer | None = None
        self._stalled: DeadlineExceeded | None = None

    @override
    async def write(self, message: bytes) -> None:
        await super().write(message)
        while self._unsent and not self._is_closed:
            await self._until_writable()

    @override
    def close(self) -> None:
        for timer in (self._receiving, self._sending):
            if timer is not None:
                timer.cancel()
        super().close()

    @property
    @override
    def _has_more(self) -> bool:
        return self._frames.has_bytes or self._wire.has_pending

    @override
    def _receive(self) -> Any:
        if self._stalled is not None:
            raise self._stalled
        if self._is_closed:
            return grpc.aio.EOF
        while (message := self._frames.next_message()) is None:
            try:
                size_bytes = self._wire.receive_into(self._frames.room())
            except OSError:  # a connection that was reset has ended
                return grpc.aio.EOF
            if size_bytes is None:
                self._receiving = self._timed(self._receiving, is_on=self._frames.has_bytes)
                return None
            if not size_bytes:
                return grpc.aio.EOF
            self._frames.received(size_bytes)
        self._receiving = self._timed(self._receiving, is_on=False)
        return message

    @override
    def _send(self, message: bytes) -> bool:
        """Sends a message, or returns False; what the kernel has no room for is sent once it has."""
        if self._unsent:
            return False
        self._unsent = [head(len(message)), message]
        self._flush()
        return True

    @override
    def _close_socket(self) -> None:
        self._wire.close()

    def _flush(self) -> None:
        try:
            sent = self._wire.send(self._unsent)
        except OSError:  # the connection has ended; the next read reports it
            self._unsent.clear()
        else:
            drop_sent(self._unsent, sent)
        has_rest = bool(self._unsent)
        self._sending = self._timed(self._sending, is_on=has_rest)
        if has_rest and not self._has_writer:
            self._loop.add_writer(self._descriptor, self._flush)
        elif self._has_writer and not has_rest:
            self._loop.remove_writer(self._descriptor)
            if self._writable is not None and not self._writable.done():
                self._writable.set_result(None)
        self._has_writer = has_rest

    @override
    async def _until_writable(self) -> None:
        self._writable = self._loop.create_future()
        await self._writable

    def _timed(self, timer: Timer | None, *, is_on: bool) -> Timer | None:
        """Returns the running timer, or None, after starting or cancelling it."""
        if is_on and timer is None:
            return self._clock.call_at(self._clock.now() + self._stall_timeout_s, self._stall)
        if timer is not None and not is_on:
            timer.cancel()
            return None
        return timer

    def _stall(self) -> None:
        self._stalled = DeadlineExceeded(
            f"a message on the direct connection was neither sent nor read whole within {self._stall_timeout_s:g} s"
        )
        waiting = self._message
        if waiting is not None and not waiting.done():
            waiting.set_exception(self._stalled)
