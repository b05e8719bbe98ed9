"""The port that all workers of a host listen on, each only while it takes requests."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from mse_grad_server.exits import ListenError
from mse_grad_server.listener import Listener
from mse_grad_server.listening_sockets import ListeningSockets

__all__ = ["CommonPort"]

# Within a millisecond as a rule.
_CLOSE_S = 1.0


class CommonPort:
    """One worker's share in the port; belongs to the event loop.

    gRPC cannot let go of a port and go on, so each time that it opens is a gRPC server of its own. Connections to one
    that closed are told to go elsewhere (GOAWAY), and the calls on them end in peace.
    """

    def __init__(self, make_listener: Callable[[], Listener], *, drain_timeout_s: float) -> None:
        """Takes what listens.

        Args:
            make_listener: Makes a listener on the port.
            drain_timeout_s: How long calls may go on after it has closed.
        """
        self._make_listener = make_listener
        self._drain_timeout_s = drain_timeout_s
        self._turn = asyncio.Lock()
        self._wanted = False
        self._listener: Listener | None = None
        self._sockets = ListeningSockets({})
        self._leaving: dict[asyncio.Task[None], Listener] = {}

    async def set_open(self, is_wanted: bool) -> None:
        """Listens, or no longer; the last call counts.

        When it returns, nobody gets to this worker through the port any more.

        Raises:
            ListenError: It cannot listen.
        """
        self._wanted = is_wanted
        async with self._turn:
            if self._wanted and self._listener is None:
                listener = self._make_listener()
                try:
                    await listener.open()
                except ListenError:
                    await listener.close(0)
                    raise
                self._listener, self._sockets = listener, ListeningSockets.on(listener.address.port)
            elif not self._wanted and self._listener is not None:
                leaving = asyncio.ensure_future(self._listener.close(self._drain_timeout_s))
                self._leaving[leaving] = self._listener
                leaving.add_done_callback(lambda _: self._leaving.pop(leaving))
                self._listener = None
                await self._sockets.closed(_CLOSE_S)

    async def close(self, grace_s: float) -> None:
        """Closes, and cancels every call that is left after `grace_s`."""
        await self.set_open(False)
        await asyncio.gather(*(listener.close(grace_s) for listener in self._leaving.values()), *self._leaving)
