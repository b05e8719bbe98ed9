"""The messages of the hot path as plain values; each mirrors one message of `mse_grad.v1`, field by field."""

from __future__ import annotations

from dataclasses import dataclass, field

from mse_grad.tensor import Buffer
from mse_grad.v1 import mse_grad_pb2 as pb

__all__ = [
    "Chunk",
    "Header",
    "Result",
    "SharedRange",
    "StreamRequest",
    "StreamResponse",
    "TensorFrame",
    "UnaryRequest",
    "UnaryResponse",
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
    tensors: int = 0


@dataclass(slots=True)
class SharedRange:
    """`mse_grad.v1.SharedRange`; numbers as they came, unchecked."""

    elements: int
    predict_segment: int
    predict_offset: int
    label_segment: int
    label_offset: int
    dout_segment: int
    dout_offset: int
    y_segment: int
    y_offset: int


@dataclass(slots=True)
class Chunk:
    """`mse_grad.v1.GradientChunk`."""

    id: int
    offset: int
    predict: Buffer
    label: Buffer
    dout: Buffer = b""
    shared: SharedRange | None = None


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
