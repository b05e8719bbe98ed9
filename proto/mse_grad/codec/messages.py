"""Plain values for the messages of the hot path; each mirrors one message of `mse_grad.v1`, field by field."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from mse_grad.tensor import Buffer
from mse_grad.v1 import mse_grad_pb2 as pb

__all__ = [
    "Chunk",
    "Header",
    "MetadataEntry",
    "Result",
    "SharedRange",
    "StreamRequest",
    "StreamResponse",
    "TensorFrame",
    "UnaryRequest",
    "UnaryResponse",
]


@dataclass(slots=True)
class MetadataEntry:
    """`mse_grad.v1.MetadataEntry`; as received, unchecked."""

    key: str
    value: str


@dataclass(slots=True)
class Header:
    """`mse_grad.v1.GradientHeader`; numbers as received, unchecked."""

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
    metadata: tuple[MetadataEntry, ...] = ()


@dataclass(slots=True)
class SharedRange:
    """`mse_grad.v1.SharedRange`; numbers as received, unchecked."""

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

    def __len__(self) -> int:
        return len(self.headers) + len(self.chunks) + len(self.cancel_ids)

    def parts(self, most: int) -> Iterator[StreamRequest]:
        """Yields requests of at most `most` headers, chunks or cancellations, in the order of their processing."""
        for at in range(0, len(self.headers), most):
            yield StreamRequest(headers=self.headers[at : at + most])
        for at in range(0, len(self.chunks), most):
            yield StreamRequest(chunks=self.chunks[at : at + most])
        for at in range(0, len(self.cancel_ids), most):
            yield StreamRequest(cancel_ids=self.cancel_ids[at : at + most])


@dataclass(slots=True)
class Result:
    """`mse_grad.v1.GradientResult`."""

    id: int
    offset: int
    y: Buffer
    fallback: bool = False


@dataclass(slots=True)
class StreamResponse:
    """`mse_grad.v1.StreamGradientsResponse`; rare parts stay generated messages."""

    opened: pb.StreamOpened | None = None
    results: list[Result] = field(default_factory=list)
    errors: list[pb.GradientError] = field(default_factory=list)
    go_away: pb.GoAway | None = None


@dataclass(slots=True)
class TensorFrame:
    """`mse_grad.v1.Tensor`; numbers as received, unchecked."""

    dtype: int
    shape: tuple[int, ...]
    data: Buffer


@dataclass(slots=True)
class UnaryRequest:
    """`mse_grad.v1.ComputeGradientRequest`; an operand that is not set is an empty frame of dtype 0."""

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
