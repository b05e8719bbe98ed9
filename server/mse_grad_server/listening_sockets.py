"""The sockets with which gRPC listens, which it shows to nobody."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
from collections.abc import Mapping

__all__ = ["ListeningSockets"]

_LOOK_S = 0.0005


class ListeningSockets:
    """Those of this process on one port: gRPC closes them in a thread of its own, some time after it was told to."""

    def __init__(self, inodes: Mapping[int, int]) -> None:
        """Takes descriptor -> inode."""
        self._inodes = inodes

    @classmethod
    def on(cls, port: int) -> ListeningSockets:
        """Returns those that listen on `port` now; none where the system has no /dev/fd."""
        try:
            descriptors = [int(name) for name in os.listdir("/dev/fd")]
        except FileNotFoundError:
            return cls({})
        listening = (descriptor for descriptor in descriptors if _listens(descriptor, port))
        return cls({descriptor: os.fstat(descriptor).st_ino for descriptor in listening})

    async def closed(self, timeout_s: float) -> bool:
        """Waits until all are closed, and returns whether they are."""
        give_up_s = asyncio.get_running_loop().time() + timeout_s
        while any(_inode(descriptor) == inode for descriptor, inode in self._inodes.items()):
            if asyncio.get_running_loop().time() >= give_up_s:
                return False
            await asyncio.sleep(_LOOK_S)
        return True


def _listens(descriptor: int, port: int) -> bool:
    try:
        if not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
            return False
        borrowed = socket.socket(fileno=descriptor)
    except OSError:  # closed meanwhile
        return False
    try:
        if borrowed.family == socket.AF_UNIX or not borrowed.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            return False
        return bool(borrowed.getsockname()[1] == port)
    except OSError:
        return False
    finally:
        borrowed.detach()


def _inode(descriptor: int) -> int | None:
    try:
        return os.fstat(descriptor).st_ino
    except OSError:
        return None
