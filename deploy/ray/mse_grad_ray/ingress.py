"""Methods that Ray Serve's gRPC proxies accept, with messages as plain bytes."""

from __future__ import annotations

from typing import Any

import grpc

from mse_grad.methods import COMPUTE_GRADIENT, GET_SERVER_INFO, SERVICE, STREAM_GRADIENTS

__all__ = ["add_service"]


def add_service(servicer: object, server: Any) -> None:
    """Adds the service to a proxy of Ray Serve, which calls it by its path from `grpc_servicer_functions`.

    The proxy replaces the behaviour of each method: it sends the message to a replica. The generated function would
    make it decode each message first, and pickle the decoded one.

    Args:
        servicer: A placeholder of Ray.
        server: The gRPC server of the proxy.
    """
    del servicer
    unary: Any = grpc.unary_unary_rpc_method_handler(_replaced)
    handlers = {
        COMPUTE_GRADIENT: unary,
        STREAM_GRADIENTS: grpc.stream_stream_rpc_method_handler(_replaced),
        GET_SERVER_INFO: unary,
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))


def _replaced(*_: object) -> Any:
    raise NotImplementedError("Ray Serve replaces the behaviour of this method")
