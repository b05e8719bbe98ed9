"""Common port of all workers of a host, on which each listens only while it is ready."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Mapping

from mse_grad_server.process.exits import ListenError
from mse_grad_server.process.listening_sockets import listening_sockets
from mse_grad_server.rpc.listener import Listener

__all__ = ["CommonPort", "ListeningSockets"]

# Longest wait until gRPC has closed its sockets, which it mostly does within a millisecond, and the interval of the
# checks.
_CLOSE_S = 1.0
_CHECK_S = 0.0005


class CommonPort:
    """This worker's listener on the common port; belongs to the event loop.

    A gRPC server cannot close its port and go on, so each opening makes a new gRPC server. When it closes, its clients
    get GOAWAY and connect to another worker, and the RPCs on the connection may finish.

    Args:
        make_listener: Makes a listener on the port.
        drain_timeout_s: Longest time for RPCs to finish after the port has closed.
    """

    def __init__(self, make_listener: Callable[[], Listener], *, drain_timeout_s: float) -> None:
        self._make_listener = make_listener
        self._drain_timeout_s = drain_timeout_s
        self._changing = asyncio.Lock()
        self._wanted = False
        self._listener: Listener | None = None
        self._sockets = ListeningSockets({})
        self._closing: dict[asyncio.Task[None], Listener] = {}

    async def set_open(self, is_wanted: bool) -> None:
        """Opens or closes the port; if calls overlap, the last one decides.

        After it was closed, no new connection reaches this worker through the port.

        Raises:
            ListenError: The port cannot be opened.
        """
        self._wanted = is_wanted
        async with self._changing:
            if self._wanted and self._listener is None:
                listener = self._make_listener()
                try:
                    await listener.open()
                except ListenError:
                    await listener.close(0)
                    raise
                self._listener, self._sockets = listener, ListeningSockets.on(listener.address.port)
            elif not self._wanted and self._listener is not None:
                closing = asyncio.ensure_future(self._listener.close(self._drain_timeout_s))
                self._closing[closing] = self._listener
                closing.add_done_callback(lambda _: self._closing.pop(closing))
                self._listener = None
                await self._sockets.closed(_CLOSE_S)

    async def close(self, grace_s: float) -> None:
        """Closes the port, and cancels the RPCs that are left after `grace_s`."""
        await self.set_open(False)
        await asyncio.gather(*(listener.close(grace_s) for listener in self._closing.values()), *self._closing)


class ListeningSockets:
    """Sockets of this process that listen on one port.

    gRPC does not expose its sockets. It closes them in its own thread, some time after it was told to stop.

    Args:
        inodes: Descriptor -> inode of each socket.
    """

    def __init__(self, inodes: Mapping[int, int]) -> None:
        self._inodes = inodes

    @classmethod
    def on(cls, port: int) -> ListeningSockets:
        """Returns the sockets that listen on `port` now; none if the system has no /dev/fd."""
        listening = (found for found in listening_sockets() if found.family != socket.AF_UNIX)
        return cls({found.fileno(): os.fstat(found.fileno()).st_ino for found in listening if _port(found) == port})

    async def closed(self, timeout_s: float) -> bool:
        """Waits until all sockets are closed, and returns whether they are."""
        end_s = asyncio.get_running_loop().time() + timeout_s
        while any(_inode(descriptor) == inode for descriptor, inode in self._inodes.items()):
            if asyncio.get_running_loop().time() >= end_s:
                return False
            await asyncio.sleep(_CHECK_S)
        return True


def _port(listener: socket.socket) -> int:
    try:
        return int(listener.getsockname()[1])
    except OSError:  # closed meanwhile
        return 0


def _inode(descriptor: int) -> int | None:
    try:
        return os.fstat(descriptor).st_ino
    except OSError:
        return None
