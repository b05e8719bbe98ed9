"""SDK of mse-grad: gradients of the mean squared error from a running server.

`MseGradClient` blocks the calling thread; `AsyncMseGradClient` is awaited.
"""

from mse_grad_client.aio import AsyncMseGradClient
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
    "AsyncMseGradClient",
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
