"""A gRPC server of a test's own on a free port."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import grpc

__all__ = ["listening"]


@contextmanager
def listening(server: grpc.Server) -> Iterator[str]:
    """Starts `server` on a free port of loopback, yields its address, and stops it at the end."""
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait()
