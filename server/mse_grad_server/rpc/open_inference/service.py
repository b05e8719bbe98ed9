"""Service inference.GRPCInferenceService: its methods as a gRPC handler."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc
from google.protobuf.message import DecodeError, Message

from mse_grad.open_inference import inference_pb2 as oip
from mse_grad.reasons import ContractError, Reason
from mse_grad_server.errors import NotOffered
from mse_grad_server.rpc.open_inference.descriptions import Descriptions
from mse_grad_server.rpc.open_inference.model import InferAsked
from mse_grad_server.rpc.open_inference.stream import ModelStreamInfer
from mse_grad_server.rpc.unary import UnaryMethod, WholeGradients

__all__ = ["METHODS", "MODEL_INFER", "MODEL_STREAM_INFER", "NOT_OFFERED", "SERVICE", "OpenInference"]

_DESCRIPTOR = oip.DESCRIPTOR.services_by_name["GRPCInferenceService"]
SERVICE: str = _DESCRIPTOR.full_name

METHODS: tuple[str, ...] = tuple(method.name for method in _DESCRIPTOR.methods)
"""Names of the methods of the protocol, without those of its extensions."""

MODEL_INFER = f"/{SERVICE}/ModelInfer"
MODEL_STREAM_INFER = f"/{SERVICE}/ModelStreamInfer"

NOT_OFFERED = {
    "RepositoryModelLoad": "the server has one model, which is always loaded",
    "RepositoryModelUnload": "the server has one model, which is always loaded",
    **{
        f"{kind}SharedMemory{verb}": "shared memory by name is not offered; send the elements in the message, or use "
        "the SDK of mse_grad, which shares memory by itself"
        for kind in ("System", "Cuda")
        for verb in ("Status", "Register", "Unregister")
    },
    "TraceSetting": "traces have no settings here; send a traceparent with the call",
    "LogSettings": "the log has no settings here; see --log-level of the server",
}
"""Methods of the protocol's extensions that are answered by words, so that a caller learns at once what is missing."""


class OpenInference:
    """The gRPC service of the Open Inference Protocol; use it only in the event loop.

    Args:
        gradients: The computation.
        descriptions: Answers to the small methods.
    """

    def __init__(self, gradients: WholeGradients, descriptions: Descriptions) -> None:
        self._model_infer = UnaryMethod(gradients, InferAsked, "ModelInfer")
        self._model_stream_infer = ModelStreamInfer(gradients)
        self._descriptions = descriptions

    def handler(self) -> grpc.GenericRpcHandler:
        """Returns the handler of all methods, for a gRPC server."""
        described = self._descriptions
        small: dict[str, tuple[type[Message], Callable[[Any], Message]]] = {
            "ServerLive": (oip.ServerLiveRequest, described.server_live),
            "ServerReady": (oip.ServerReadyRequest, described.server_ready),
            "ModelReady": (oip.ModelReadyRequest, described.model_ready),
            "ServerMetadata": (oip.ServerMetadataRequest, described.server_metadata),
            "ModelMetadata": (oip.ModelMetadataRequest, described.model_metadata),
            "ModelConfig": (oip.ModelConfigRequest, described.model_config),
            "ModelStatistics": (oip.ModelStatisticsRequest, described.model_statistics),
            "RepositoryIndex": (oip.RepositoryIndexRequest, described.repository_index),
        }
        return grpc.method_handlers_generic_handler(
            SERVICE,
            {
                # Registered as client streaming, as in `rpc.service`.
                "ModelInfer": grpc.stream_unary_rpc_method_handler(self._model_infer.handle),
                "ModelStreamInfer": grpc.stream_stream_rpc_method_handler(self._model_stream_infer.handle),
                **{
                    name: grpc.unary_unary_rpc_method_handler(_small(kind, answer))
                    for name, (kind, answer) in small.items()
                },
                **{name: grpc.unary_unary_rpc_method_handler(_refusal(why)) for name, why in NOT_OFFERED.items()},
            },
        )


def _small(kind: type[Message], answer: Callable[[Any], Message]) -> Callable[[bytes, Any], Any]:
    async def handle(message: bytes, _: Any) -> bytes:
        try:
            request = kind.FromString(message)
        except DecodeError as cause:
            raise ContractError(
                Reason.MESSAGE_MALFORMED, "message", f"the message is not an {kind.DESCRIPTOR.full_name}"
            ) from cause
        return answer(request).SerializeToString()

    return handle


def _refusal(why: str) -> Callable[[bytes, Any], Any]:
    async def refuse(_: bytes, __: Any) -> bytes:
        raise NotOffered(why)

    return refuse
