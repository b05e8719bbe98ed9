"""The port that all workers of a host listen on, each only while it takes requests."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from mse_grad_server.listener import Listener

__all__ = ["CommonPort"]


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
        self._leaving: dict[asyncio.Task[None], Listener] = {}

    async def set_open(self, is_wanted: bool) -> None:
        """Listens, or no longer; the last call counts. Raises ListenError where it cannot."""
        self._wanted = is_wanted
        async with self._turn:
            if self._wanted and self._listener is None:
                listener = self._make_listener()
                await listener.open()
                self._listener = listener
            elif not self._wanted and self._listener is not None:
                leaving = asyncio.ensure_future(self._listener.close(self._drain_timeout_s))
                self._leaving[leaving] = self._listener
                leaving.add_done_callback(lambda _: self._leaving.pop(leaving))
                self._listener = None
                # gRPC closes the socket in the first step of the task.
                await asyncio.sleep(0)

    async def close(self, grace_s: float) -> None:
        """Closes, and cancels every call that is left after `grace_s`."""
        await self.set_open(False)
        await asyncio.gather(*(listener.close(grace_s) for listener in self._leaving.values()), *self._leaving)
