"""A port that stays one server's own while the server is away."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["held_port"]


@contextmanager
def held_port() -> Iterator[int]:
    """Yields a free port of loopback, which no program gets that asks for any free one.

    A server may listen on it, end, and listen again: Linux lets a socket with SO_REUSEADDR, which gRPC sets, listen
    beside a socket that has the option too and does not listen. Connections are refused while no server listens.
    """
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("127.0.0.1", 0))
        port = int(holder.getsockname()[1])
        if sys.platform != "linux":
            holder.close()
        yield port
