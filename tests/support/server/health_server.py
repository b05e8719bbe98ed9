"""A server that answers health checks and nothing else."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import grpc
from grpc_health.v1 import health, health_pb2_grpc

from support.server.listening import listening

__all__ = ["health_server"]


@contextmanager
def health_server(status: int | None) -> Iterator[str]:
    """Yields the address of a grpc.health.v1 server with this status; with None it never answers."""
    servicer = health.HealthServicer()
    if status is not None:
        servicer.set("", status)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        if status is None:
            yield f"127.0.0.1:{silent.getsockname()[1]}"
            return
    server = grpc.server(ThreadPoolExecutor(1))
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    with listening(server) as address:
        yield address
