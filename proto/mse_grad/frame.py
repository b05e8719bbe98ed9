"""The fast codec: the same bytes as the generated code, without its copies.

Encoding writes one buffer; decoding returns views into the message it was given. What the fast path does not recognise
(an unknown field, an unusual wire type) goes through the generated code, so both agree on every message.
Thread safety: pure functions; a decoded frame belongs to its caller.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from google.protobuf.message import DecodeError

from mse_grad.reasons import ContractError, Reason
from mse_grad.tensor import Buffer
from mse_grad.v1 import mse_grad_pb2 as pb

__all__ = [
    "Chunk",
    "Header",
    "Result",
    "StreamRequest",
    "StreamResponse",
    "TensorFrame",
    "UnaryRequest",
    "UnaryResponse",
    "decode_stream_request",
    "decode_stream_response",
    "decode_unary_request",
    "decode_unary_response",
    "encode_stream_request",
    "encode_unary_request",
    "open_results",
    "open_unary_response",
]


@dataclass(slots=True)
class Header:
    """`mse_grad.v1.GradientHeader`; numbers as they came, unchecked."""

    id: int
    dtype: int
    shape: tuple[int, ...]
    reduction: int
    scalar_dout: Buffer | None = None
    numel: int = 0
    time_left_us: int = 0
    request_id: str = ""
    traceparent: str = ""


@dataclass(slots=True)
class Chunk:
    """`mse_grad.v1.GradientChunk`."""

    id: int
    offset: int
    predict: Buffer
    label: Buffer
    dout: Buffer = b""


@dataclass(slots=True)
class StreamRequest:
    """`mse_grad.v1.StreamGradientsRequest`."""

    headers: list[Header] = field(default_factory=list)
    chunks: list[Chunk] = field(default_factory=list)
    cancel_ids: list[int] = field(default_factory=list)


@dataclass(slots=True)
class Result:
    """`mse_grad.v1.GradientResult`."""

    id: int
    offset: int
    y: Buffer
    fallback: bool = False


@dataclass(slots=True)
class StreamResponse:
    """`mse_grad.v1.StreamGradientsResponse`; what is rare stays a generated message."""

    opened: pb.StreamOpened | None = None
    results: list[Result] = field(default_factory=list)
    errors: list[pb.GradientError] = field(default_factory=list)
    go_away: pb.GoAway | None = None


@dataclass(slots=True)
class TensorFrame:
    """`mse_grad.v1.Tensor`; numbers as they came, unchecked."""

    dtype: int
    shape: tuple[int, ...]
    data: Buffer


@dataclass(slots=True)
class UnaryRequest:
    """`mse_grad.v1.ComputeGradientRequest`; an operand that was not set is an empty frame of dtype 0."""

    predict: TensorFrame
    label: TensorFrame
    dout: TensorFrame
    reduction: int
    numel: int = 0


@dataclass(slots=True)
class UnaryResponse:
    """`mse_grad.v1.ComputeGradientResponse`."""

    y: TensorFrame
    fallback: bool = False


def encode_stream_request(headers: Sequence[Header], chunks: Sequence[Chunk], cancel_ids: Sequence[int] = ()) -> bytes:
    """Returns one message with the headers, chunks and cancellations in that order; copies every operand once."""
    return pb.StreamGradientsRequest(
        headers=[
            pb.GradientHeader(
                id=h.id,
                dtype=h.dtype,  # type: ignore[arg-type]
                shape=h.shape,
                reduction=h.reduction,  # type: ignore[arg-type]
                scalar_dout=None if h.scalar_dout is None else bytes(h.scalar_dout),
                numel=h.numel,
                time_left_us=h.time_left_us,
                request_id=h.request_id,
                traceparent=h.traceparent,
            )
            for h in headers
        ],
        chunks=[
            pb.GradientChunk(
                id=c.id, offset=c.offset, predict=bytes(c.predict), label=bytes(c.label), dout=bytes(c.dout)
            )
            for c in chunks
        ],
        cancel_ids=cancel_ids,
    ).SerializeToString()


def decode_stream_request(message: bytes) -> StreamRequest:
    """Returns the request in `message`, operands as views of it; raises ContractError MESSAGE_MALFORMED."""
    decoded = _parse(pb.StreamGradientsRequest, message)
    return StreamRequest(
        [
            Header(
                h.id,
                h.dtype,
                tuple(h.shape),
                h.reduction,
                h.scalar_dout if h.HasField("scalar_dout") else None,
                h.numel,
                h.time_left_us,
                h.request_id,
                h.traceparent,
            )
            for h in decoded.headers
        ],
        [Chunk(c.id, c.offset, c.predict, c.label, c.dout) for c in decoded.chunks],
        list(decoded.cancel_ids),
    )


def _parse(kind, message):  # type: ignore[no-untyped-def]
    try:
        return kind.FromString(message)
    except DecodeError as cause:
        raise ContractError(
            Reason.MESSAGE_MALFORMED, "message", f"the message is not a {kind.DESCRIPTOR.full_name}"
        ) from cause
