"""SDK of mse-grad: gradients of the mean squared error from a running server.

`MseGradClient` blocks the calling thread; `AsyncMseGradClient` is awaited.
"""

from typing import TYPE_CHECKING

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

if TYPE_CHECKING:
    from mse_grad_client.aio import AsyncMseGradClient
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

if not TYPE_CHECKING:  # a type checker would take every name for one of these

    def __getattr__(name: str) -> object:
        # Programs that do not use these names need not wait for the import of their modules.
        if name == "AsyncMseGradClient":
            from mse_grad_client.aio import AsyncMseGradClient

            return AsyncMseGradClient
        if name == "ServerInfo":
            from mse_grad_client.server_info import ServerInfo

            return ServerInfo
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
