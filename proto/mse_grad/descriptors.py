"""Unix sockets that take no descriptors of other processes.

Whoever drops the last reference to a file closes it, and that may take forever: a socket lingers, or a file system does
not answer. A receiver without room for the descriptors of a packet drops them.
"""

from __future__ import annotations

import socket
import sys

__all__ = ["can_refuse_descriptors", "refuse_descriptors"]

_SO_PASSRIGHTS = 83  # asm-generic/socket.h; Linux 6.16


def refuse_descriptors(connection: socket.socket) -> bool:
    """Has the kernel refuse descriptors that are sent to this unix socket from now on.

    On a listening socket it holds for the connections too. Returns False if the kernel cannot.
    """
    try:
        connection.setsockopt(socket.SOL_SOCKET, _SO_PASSRIGHTS, 0)
    except OSError:
        return False
    return True


def can_refuse_descriptors() -> bool:
    """Returns whether the kernel can refuse descriptors."""
    if sys.platform != "linux":
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as unused:
        return refuse_descriptors(unused)
