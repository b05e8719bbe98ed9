"""Health check of a server by the gRPC health protocol."""

from __future__ import annotations

import grpc

from mse_grad_client.routing.address import grpc_target
from mse_grad_client.routing.credentials import Credentials

__all__ = ["SERVING", "health_of"]

SERVING = "SERVING"
_STATES = {b"\x08\x01": SERVING, b"\x08\x02": "NOT_SERVING"}  # HealthCheckResponse, on the wire


def health_of(address: str, credentials: Credentials, *, timeout_s: float) -> str:
    """Returns "SERVING", "NOT_SERVING" or "unknown"; raises grpc.RpcError if there is no answer in `timeout_s`."""
    with credentials.channel(address, grpc_target(address)) as channel:
        check: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary("/grpc.health.v1.Health/Check")
        return _STATES.get(check(b"", timeout=timeout_s), "unknown")
