"""grpc.health.v1: serving only between the verified gradient and the drain."""

from __future__ import annotations

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from mse_grad_server.service import SERVICE

__all__ = ["Health"]

_SERVICES = ("", SERVICE)


class Health:
    """What probes and load balancers ask, for the whole server ("") and for our service."""

    def __init__(self) -> None:
        self._servicer = health.aio.HealthServicer()

    async def open(self) -> None:
        """Knows the services from now on, none of them serving yet."""
        await self.set_ready(False)

    def add_to(self, server: grpc.aio.Server) -> None:
        """Adds the service to a gRPC server; any number of them may have it."""
        health_pb2_grpc.add_HealthServicer_to_server(self._servicer, server)

    async def set_ready(self, is_ready: bool = True) -> None:
        """Serving from now on, or not; does nothing once it drains."""
        status = health_pb2.HealthCheckResponse.SERVING if is_ready else health_pb2.HealthCheckResponse.NOT_SERVING
        for service in _SERVICES:
            await self._servicer.set(service, status)

    async def drain(self) -> None:
        """Not serving from now on, for good; who watches is told."""
        await self._servicer.enter_graceful_shutdown()
