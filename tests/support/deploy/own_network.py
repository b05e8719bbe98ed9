"""A separate network: a server may bind the host's loopback address in it without harm."""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["own_network"]

_CLONE_NEWNET = 0x40000000  # sched.h
_SIOCSIFFLAGS = 0x8914  # linux/sockios.h
_IFF_UP = 1  # linux/if.h


@contextmanager
def own_network() -> Iterator[None]:
    """Moves this thread, and everything it starts meanwhile, into a network that has only a loopback; needs root."""
    libc = ctypes.CDLL(None, use_errno=True)

    def require(result: int, what: str) -> None:
        if result != 0:
            raise OSError(ctypes.get_errno(), f"{what}: {os.strerror(ctypes.get_errno())}")

    with open("/proc/thread-self/ns/net") as outside:
        require(libc.unshare(_CLONE_NEWNET), "unshare")
        try:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
                fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sH22x", b"lo", _IFF_UP))
            yield
        finally:
            require(libc.setns(outside.fileno(), _CLONE_NEWNET), "setns")
