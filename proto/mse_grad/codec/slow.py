"""Slow decoder of the hot-path messages, by the generated code, which copies each operand once."""

from __future__ import annotations

from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from mse_grad.codec.census import check_entries, check_fields
from mse_grad.codec.messages import (
    Chunk,
    Header,
    MetadataEntry,
    Result,
    SharedRange,
    StreamRequest,
    StreamResponse,
    TensorFrame,
    UnaryRequest,
    UnaryResponse,
)
from mse_grad.reasons import ContractError, Reason
from mse_grad.v1 import mse_grad_pb2 as pb

__all__ = ["parse_stream_request", "parse_stream_response", "parse_unary_request", "parse_unary_response"]

_Message = TypeVar("_Message", bound=Message)


def parse_stream_request(message: bytes) -> StreamRequest:
    """Returns the `StreamGradientsRequest` in `message`; raises ContractError as `decode_stream_request` does."""
    check_fields(message, pb.StreamGradientsRequest.DESCRIPTOR)
    parsed = _parse(pb.StreamGradientsRequest, message)
    check_entries(len(parsed.headers), field="headers")
    check_entries(len(parsed.chunks), field="chunks")
    return StreamRequest(
        [
            Header(
                id=header.id,
                dtype=header.dtype,
                shape=tuple(header.shape),
                reduction=header.reduction,
                scalar_dout=header.scalar_dout if header.HasField("scalar_dout") else None,
                numel=header.numel,
                time_left_us=header.time_left_us,
                request_id=header.request_id,
                traceparent=header.traceparent,
                tensors=header.tensors,
                metadata=tuple(MetadataEntry(entry.key, entry.value) for entry in header.metadata),
            )
            for header in parsed.headers
        ],
        [
            Chunk(
                chunk.id,
                chunk.offset,
                chunk.predict,
                chunk.label,
                chunk.dout,
                _shared(chunk.shared) if chunk.HasField("shared") else None,
            )
            for chunk in parsed.chunks
        ],
        list(parsed.cancel_ids),
    )


def parse_stream_response(message: bytes) -> StreamResponse:
    """Returns the `StreamGradientsResponse` in `message`; raises ContractError MESSAGE_MALFORMED."""
    parsed = _parse(pb.StreamGradientsResponse, message)
    return StreamResponse(
        parsed.opened if parsed.HasField("opened") else None,
        [Result(result.id, result.offset, result.y, result.fallback) for result in parsed.results],
        list(parsed.errors),
        parsed.go_away if parsed.HasField("go_away") else None,
    )


def parse_unary_request(message: bytes) -> UnaryRequest:
    """Returns the `ComputeGradientRequest` in `message`; raises ContractError MESSAGE_MALFORMED."""
    check_fields(message, pb.ComputeGradientRequest.DESCRIPTOR)
    parsed = _parse(pb.ComputeGradientRequest, message)
    return UnaryRequest(
        _tensor(parsed.predict), _tensor(parsed.label), _tensor(parsed.dout), parsed.reduction, parsed.numel
    )


def parse_unary_response(message: bytes) -> UnaryResponse:
    """Returns the `ComputeGradientResponse` in `message`; raises ContractError MESSAGE_MALFORMED."""
    parsed = _parse(pb.ComputeGradientResponse, message)
    return UnaryResponse(_tensor(parsed.y), parsed.fallback)


def _shared(shared: pb.SharedRange) -> SharedRange:
    return SharedRange(
        shared.elements,
        shared.predict_segment,
        shared.predict_offset,
        shared.label_segment,
        shared.label_offset,
        shared.dout_segment,
        shared.dout_offset,
        shared.y_segment,
        shared.y_offset,
    )


def _tensor(tensor: pb.Tensor) -> TensorFrame:
    return TensorFrame(tensor.dtype, tuple(tensor.shape), tensor.data)


def _parse(kind: type[_Message], message: bytes) -> _Message:
    try:
        return kind.FromString(message)
    except DecodeError as cause:
        raise ContractError(
            Reason.MESSAGE_MALFORMED, "message", f"the message is not a {kind.DESCRIPTOR.full_name}"
        ) from cause
