"""Acceptor of connections that survives the exhaustion of descriptors."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress

from mse_grad_server.process.clock import Clock, Timer

__all__ = ["Acceptor"]

# Errors of accept(2) that pass: no free descriptor in the process or the system, no memory.
_EXHAUSTED = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))
# Time without new connections after such an error.
_PAUSE_S = 0.5


class Acceptor:
    """Accepts connections on listening sockets; belongs to the event loop.

    If no descriptor is free, it closes the connections that wait, whose clients then use gRPC, and pauses.

    Args:
        clock: Clock of the pauses.
        on_connection: Called with each connection, which does not block.
        on_exhausted: Called when connections were turned away.
        on_paused: Called with the error of the first of several pauses in a row.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        on_connection: Callable[[socket.socket], None],
        on_exhausted: Callable[[], None],
        on_paused: Callable[[OSError], None],
    ) -> None:
        self._clock = clock
        self._on_connection = on_connection
        self._on_exhausted = on_exhausted
        self._on_paused = on_paused
        self._listeners: Sequence[socket.socket] = ()
        # Closed to accept, and turn away, a connection when no other descriptor is free.
        self._spare: int | None = None
        self._pause: Timer | None = None
        self._was_exhausted = False

    @property
    def is_accepting(self) -> bool:
        """Whether connections are accepted now."""
        return bool(self._listeners) and self._pause is None

    def open(self, listeners: Sequence[socket.socket]) -> None:
        """Begins to accept on `listeners`, which stay owned by the caller; raises OSError."""
        self._spare = os.dup(listeners[0].fileno())
        self._listeners = listeners
        self._watch()

    def close(self) -> None:
        """Stops accepting; call it before the listeners are closed."""
        self._unwatch()
        self._listeners = ()
        if self._pause is not None:
            self._pause.cancel()
        if self._spare is not None:
            os.close(self._spare)
            self._spare = None

    def _watch(self) -> None:
        for listener in self._listeners:
            asyncio.get_running_loop().add_reader(listener, self._accept, listener)

    def _unwatch(self) -> None:
        for listener in self._listeners:
            asyncio.get_running_loop().remove_reader(listener)

    def _accept(self, listener: socket.socket) -> None:
        try:
            connection, _ = listener.accept()
        except OSError as error:
            if error.errno in _EXHAUSTED:
                self._turn_away(error)
            return  # any other error: the client is gone again
        self._was_exhausted = False
        connection.setblocking(False)
        self._on_connection(connection)

    def _turn_away(self, error: OSError) -> None:
        self._on_exhausted()
        self._unwatch()
        if self._spare is not None:
            os.close(self._spare)
            for listener in self._listeners:
                with suppress(OSError):  # no connection waits any longer, or another thread took the descriptor
                    while True:
                        listener.accept()[0].close()
        self._open_spare()
        if not self._was_exhausted:
            self._was_exhausted = True
            self._on_paused(error)
        self._pause = self._clock.call_at(self._clock.now() + _PAUSE_S, self._resume)

    def _open_spare(self) -> None:
        try:
            self._spare = os.dup(self._listeners[0].fileno())
        except OSError:
            self._spare = None

    def _resume(self) -> None:
        self._pause = None
        if self._spare is None:
            self._open_spare()
        self._watch()
