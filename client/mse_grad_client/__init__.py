"""The SDK of mse-grad: `MseGradClient` computes gradients of the mean squared error on a running server."""

from mse_grad_client.client import MseGradClient
from mse_grad_client.errors import (
    Cancelled,
    ClientClosed,
    DeadlineExceeded,
    InternalError,
    InvalidArgument,
    MseGradError,
    PermissionDenied,
    ResourceExhausted,
    TlsFailed,
    Unauthenticated,
    Unavailable,
    Unimplemented,
)
from mse_grad_client.info import ServerInfo
from mse_grad_client.options import ClientOptions, RetryOptions

__all__ = [
    "Cancelled",
    "ClientClosed",
    "ClientOptions",
    "DeadlineExceeded",
    "InternalError",
    "InvalidArgument",
    "MseGradClient",
    "MseGradError",
    "PermissionDenied",
    "ResourceExhausted",
    "RetryOptions",
    "ServerInfo",
    "TlsFailed",
    "Unauthenticated",
    "Unavailable",
    "Unimplemented",
]
