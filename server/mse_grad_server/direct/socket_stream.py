"""Base of packets and frames: reads and writes of a stream over a socket, in place of gRPC's context."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import grpc

__all__ = ["DirectConnection", "TryInline"]

TryInline = Callable[[bytes], bool]
"""Handles a message synchronously, or returns False."""

# Longest time that one connection may keep the event loop while further messages of it have arrived. A caller can send
# messages of four bytes faster than the server handles them, which takes 10 us each.
_TURN_S = 0.001


class DirectConnection:
    """Messages of one stream over a socket, which a subclass cuts into messages; belongs to the event loop.

    Args:
        descriptor: The socket, for the event loop.
        try_handle_inline: Fast path: called with each message while `read` is pending. Returns True if the message was
            handled and answered synchronously; then `read` stays pending. It spares a turn of the event loop, which is
            a sixth of a small gradient's time.
    """

    def __init__(self, descriptor: int, *, try_handle_inline: TryInline) -> None:
        self._descriptor = descriptor
        self._try_handle_inline = try_handle_inline
        self._loop = asyncio.get_running_loop()
        self._message: asyncio.Future[Any] | None = None
        self._writable: asyncio.Future[None] | None = None
        self._has_reader = False
        self._turn_began_s = self._loop.time()
        self._next_turn: asyncio.Handle | None = None
        self._is_closed = False

    async def read(self) -> Any:
        """Returns the next message, or EOF after either side has closed the connection; raises MessageTooLarge."""
        if self._is_turn_over():
            await asyncio.sleep(0)
            self._turn_began_s = self._loop.time()
        message = self._receive()
        if message is not None:
            return message
        self._message = self._loop.create_future()
        if not self._has_reader:
            self._has_reader = True
            self._loop.add_reader(self._descriptor, self._on_readable)
        message = await self._message
        self._turn_began_s = self._loop.time()
        return message

    async def write(self, message: bytes) -> None:
        """Sends a message; returns when the kernel has it. If the client is gone, the message is lost."""
        while not self.write_now(message):
            await self._until_writable()

    def write_now(self, message: bytes) -> bool:
        """Sends a message, or returns False if the socket has no room for it now."""
        return self._is_closed or self._send(message)

    def close(self) -> None:
        """Closes the connection; a second call does nothing."""
        if self._is_closed:
            return
        self._is_closed = True
        # The callback holds the stream, which holds this object: the cycle would keep the stream in memory.
        self._try_handle_inline = lambda message: False
        if self._next_turn is not None:
            self._next_turn.cancel()
        self._remove_reader()
        self._loop.remove_writer(self._descriptor)
        self._close_socket()
        if self._message is not None and not self._message.done():
            self._message.set_result(grpc.aio.EOF)
        if self._writable is not None and not self._writable.done():
            self._writable.set_result(None)

    @property
    def _has_more(self) -> bool:
        """Whether a message may have been received of which the descriptor tells nothing."""
        return False

    def _receive(self) -> Any:
        """Returns the next message, EOF, or None if no message has arrived; raises MessageTooLarge."""
        raise NotImplementedError

    def _send(self, message: bytes) -> bool:
        """Sends a message, or returns False if the socket has no room for it now."""
        raise NotImplementedError

    def _close_socket(self) -> None:
        """Closes the socket so that the client still reads everything that was sent."""
        raise NotImplementedError

    def _is_turn_over(self) -> bool:
        return self._loop.time() - self._turn_began_s >= _TURN_S

    def _on_next_turn(self) -> None:
        self._next_turn = None
        self._on_readable()

    def _on_readable(self) -> None:
        if self._next_turn is not None:
            return
        waiting = self._message
        if waiting is None or waiting.done():
            # The reader stays registered until a message arrives while no `read` is pending: to add and remove it for
            # each message would take as long as to receive the message.
            self._remove_reader()
            return
        self._turn_began_s = self._loop.time()
        try:
            while (message := self._receive()) is not None:
                if message is grpc.aio.EOF or not self._try_handle_inline(message):
                    waiting.set_result(message)
                    break
                if not self._has_more:
                    break
                if self._is_turn_over():  # the descriptor tells nothing of bytes that were received already
                    self._next_turn = self._loop.call_soon(self._on_next_turn)
                    break
        except Exception as error:  # noqa: BLE001 - passed on: `read` re-raises it
            waiting.set_exception(error)

    def _remove_reader(self) -> None:
        if self._has_reader:
            self._has_reader = False
            self._loop.remove_reader(self._descriptor)

    async def _until_writable(self) -> None:
        self._writable = self._loop.create_future()
        self._loop.add_writer(self._descriptor, self._on_writable, self._writable)
        try:
            await self._writable
        finally:
            if not self._is_closed:
                self._loop.remove_writer(self._descriptor)

    def _on_writable(self, waiting: asyncio.Future[None]) -> None:
        if not waiting.done():
            waiting.set_result(None)
