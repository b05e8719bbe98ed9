"""Service mse_grad.v1.MseGradService: its methods as a gRPC handler, bytes in and bytes out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from mse_grad.methods import COMPUTE_GRADIENT, GET_SERVER_INFO, SERVICE, STREAM_GRADIENTS
from mse_grad.reasons import ContractError, Reason
from mse_grad.v1 import mse_grad_pb2 as pb
from mse_grad_server.rpc.stream.handler import StreamGradients
from mse_grad_server.rpc.unary import UnaryMethod

__all__ = ["Service"]


class Service:
    """The gRPC service with its three methods; use it only in the event loop.

    Args:
        compute_gradient: Handler of ComputeGradient.
        stream_gradients: Handler of StreamGradients.
        server_info: Returns the answer of GetServerInfo.

    Attributes:
        compute_gradient: Handler of ComputeGradient.
        stream_gradients: Handler of StreamGradients.
    """

    def __init__(
        self,
        compute_gradient: UnaryMethod,
        stream_gradients: StreamGradients,
        *,
        server_info: Callable[[], pb.GetServerInfoResponse],
    ) -> None:
        self.compute_gradient = compute_gradient
        self.stream_gradients = stream_gradients
        self._server_info = server_info

    def handler(self) -> grpc.GenericRpcHandler:
        """Returns the handler of all methods, for a gRPC server."""
        return grpc.method_handlers_generic_handler(
            SERVICE,
            {
                # Registered as client streaming, which is the same on the wire: so the handler decides when the message
                # is read, and no message is read before the RPC has a place.
                COMPUTE_GRADIENT: grpc.stream_unary_rpc_method_handler(self.compute_gradient.handle),
                STREAM_GRADIENTS: grpc.stream_stream_rpc_method_handler(self.stream_gradients.handle),
                GET_SERVER_INFO: grpc.unary_unary_rpc_method_handler(self.get_server_info),
            },
        )

    async def get_server_info(self, message: bytes, _: Any) -> bytes:
        """Answers one GetServerInfo RPC."""
        try:
            pb.GetServerInfoRequest.FromString(message)
        except DecodeError as cause:
            raise ContractError(
                Reason.MESSAGE_MALFORMED, "message", "the message is not an mse_grad.v1.GetServerInfoRequest"
            ) from cause
        return self._server_info().SerializeToString()
