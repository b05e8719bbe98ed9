"""Listening sockets of this process, those of gRPC among them, which gRPC does not expose."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Iterator

__all__ = ["listening_sockets"]


def listening_sockets() -> Iterator[socket.socket]:
    """Yields each socket of this process that listens, borrowed until the next; none if the system has no /dev/fd."""
    try:
        descriptors = [int(name) for name in os.listdir("/dev/fd")]
    except FileNotFoundError:
        return
    for descriptor in descriptors:
        try:
            if not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
                continue
            borrowed = socket.socket(fileno=descriptor)
        except OSError:  # closed meanwhile
            continue
        try:
            if _listens(borrowed):
                yield borrowed
        finally:
            borrowed.detach()


def _listens(connection: socket.socket) -> bool:
    try:
        return bool(connection.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
    except OSError:
        return False
