"""Health service grpc.health.v1, SERVING from the first verified gradients until the drain."""

from __future__ import annotations

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from mse_grad.methods import SERVICE
from mse_grad_server.rpc.open_inference.service import SERVICE as OPEN_INFERENCE

__all__ = ["Health"]

_SERVICES = ("", SERVICE, OPEN_INFERENCE)


class Health:
    """Status for probes and load balancers, of the whole server ("") and of each service with gradients."""

    def __init__(self) -> None:
        self._servicer = health.aio.HealthServicer()

    async def open(self) -> None:
        """Adds both names, with the status NOT_SERVING."""
        await self.set_ready(False)

    def add_to(self, server: grpc.aio.Server) -> None:
        """Adds the health service to a gRPC server; several servers may share it."""
        health_pb2_grpc.add_HealthServicer_to_server(self._servicer, server)

    async def set_ready(self, is_ready: bool = True) -> None:
        """Sets the status of both names; does nothing after `drain`."""
        status = health_pb2.HealthCheckResponse.SERVING if is_ready else health_pb2.HealthCheckResponse.NOT_SERVING
        for service in _SERVICES:
            await self._servicer.set(service, status)

    async def drain(self) -> None:
        """Sets the status NOT_SERVING for good, and notifies the watchers."""
        await self._servicer.enter_graceful_shutdown()
