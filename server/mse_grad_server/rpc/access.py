"""Scope that a caller needs for each method of the server.

A method that is not listed needs the greatest one, so that a new method is closed until somebody decides.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from mse_grad.methods import COMPUTE_GRADIENT, GET_SERVER_INFO, STREAM_GRADIENTS, full_name
from mse_grad_server.rpc.open_inference.service import METHODS, MODEL_INFER, MODEL_STREAM_INFER, NOT_OFFERED
from mse_grad_server.rpc.open_inference.service import SERVICE as OPEN_INFERENCE
from mse_grad_server.security.tokens import Scope

__all__ = ["SCOPES"]

# Health checks of Docker, Kubernetes and load balancers carry no token. They learn only whether the server is ready.
# Whole names, because a prefix would also let in a path that leads on from there.
_HEALTH = tuple(f"/grpc.health.v1.Health/{name}" for name in ("Check", "Watch"))
_REFLECTION = tuple(
    f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo" for version in ("v1", "v1alpha")
)
# The methods of the protocol, and those of its extensions that tell a client what is missing.
_OPEN_INFERENCE = tuple(
    f"/{OPEN_INFERENCE}/{name}"
    for name in (
        *METHODS,
        *(name for name in NOT_OFFERED if "SharedMemory" in name),
    )
)

SCOPES: Mapping[str, Scope] = MappingProxyType(
    {
        **dict.fromkeys(_HEALTH, Scope.NONE),
        **dict.fromkeys((full_name(GET_SERVER_INFO), *_REFLECTION, *_OPEN_INFERENCE), Scope.INFO),
        **dict.fromkeys(
            (full_name(COMPUTE_GRADIENT), full_name(STREAM_GRADIENTS), MODEL_INFER, MODEL_STREAM_INFER), Scope.COMPUTE
        ),
    }
)
"""Full name of a method -> scope; Scope.ADMIN for any other."""
