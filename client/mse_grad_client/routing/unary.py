"""Messages of the unary RPCs."""

from __future__ import annotations

from google.protobuf.message import DecodeError

from mse_grad.codec import TensorFrame, UnaryRequest, decode_unary_response, encode_unary_request
from mse_grad.reasons import ContractError
from mse_grad.v1 import mse_grad_pb2 as pb
from mse_grad_client.errors import InternalError
from mse_grad_client.request import GradientRequest

__all__ = ["fill", "info_of", "message_of"]


def message_of(request: GradientRequest) -> bytes:
    """Returns the message for ComputeGradient."""
    dtype, shape = request.dtype.wire, request.shape
    return encode_unary_request(
        UnaryRequest(
            TensorFrame(dtype, shape, request.predict),
            TensorFrame(dtype, shape, request.label),
            TensorFrame(dtype, request.dout_shape, request.dout),
            int(request.reduction),
            request.numel,
        )
    )


def fill(request: GradientRequest, answer: bytes) -> None:
    """Fills the gradient of `request` from the answer; raises InternalError if that is another tensor, or none."""
    dtype, shape = request.dtype.wire, request.shape
    try:
        y = decode_unary_response(answer).y
    except ContractError as broken:
        raise InternalError(f"the server broke the contract: {broken}") from broken
    if (y.dtype, y.shape, len(y.data)) != (dtype, shape, len(request.y)):
        raise InternalError(
            f"the server answered dtype {y.dtype}, shape {list(y.shape)} and {len(y.data)} bytes; "
            f"expected dtype {dtype}, shape {list(shape)} and {len(request.y)} bytes"
        )
    request.fill(0, y.data)


def info_of(answer: bytes) -> pb.GetServerInfoResponse:
    """Returns the answer of GetServerInfo; raises InternalError if it is another message."""
    try:
        return pb.GetServerInfoResponse.FromString(answer)
    except DecodeError as cause:
        raise InternalError("the server broke the contract: its answer is not a GetServerInfoResponse") from cause
