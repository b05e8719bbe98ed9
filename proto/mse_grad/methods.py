"""Names of the service and of its methods, which client and server take from the proto."""

from __future__ import annotations

from mse_grad.v1 import mse_grad_pb2 as pb

__all__ = ["COMPUTE_GRADIENT", "GET_SERVER_INFO", "SERVICE", "STREAM_GRADIENTS", "full_name"]

_DESCRIPTOR = pb.DESCRIPTOR.services_by_name["MseGradService"]

SERVICE: str = _DESCRIPTOR.full_name
COMPUTE_GRADIENT: str = _DESCRIPTOR.methods_by_name["ComputeGradient"].name
STREAM_GRADIENTS: str = _DESCRIPTOR.methods_by_name["StreamGradients"].name
GET_SERVER_INFO: str = _DESCRIPTOR.methods_by_name["GetServerInfo"].name


def full_name(method: str) -> str:
    """Returns the name of a method as gRPC writes it: "/package.Service/Method"."""
    return f"/{SERVICE}/{method}"
