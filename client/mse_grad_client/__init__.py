"""SDK of mse-grad: `MseGradClient` computes gradients of the mean squared error on a running server."""

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
from mse_grad_client.interceptor import CallInfo, ClientMetrics, Interceptor
from mse_grad_client.options import ClientOptions, RetryOptions
from mse_grad_client.server_info import ServerInfo

__all__ = [
    "CallInfo",
    "Cancelled",
    "ClientClosed",
    "ClientMetrics",
    "ClientOptions",
    "DeadlineExceeded",
    "Interceptor",
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
