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


class _Message:
    """Equality and representation by the fields: a dataclass would compile its own for each class at every import."""

    __slots__: tuple[str, ...] = ()

    def __eq__(self, other: object) -> bool:
        if type(self) is not type(other):
            return NotImplemented
        return all(getattr(self, name) == getattr(other, name) for name in self.__slots__)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        fields = ", ".join(f"{name}={getattr(self, name)!r}" for name in self.__slots__)
        return f"{type(self).__name__}({fields})"


@dataclass(slots=True, eq=False, repr=False)
class MetadataEntry(_Message):
    """`mse_grad.v1.MetadataEntry`; as received, unchecked."""

    key: str
    value: str


@dataclass(slots=True, eq=False, repr=False)
class Header(_Message):
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


@dataclass(slots=True, eq=False, repr=False)
class SharedRange(_Message):
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


@dataclass(slots=True, eq=False, repr=False)
class Chunk(_Message):
    """`mse_grad.v1.GradientChunk`."""

    id: int
    offset: int
    predict: Buffer
    label: Buffer
    dout: Buffer = b""
    shared: SharedRange | None = None


@dataclass(slots=True, eq=False, repr=False)
class StreamRequest(_Message):
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


@dataclass(slots=True, eq=False, repr=False)
class Result(_Message):
    """`mse_grad.v1.GradientResult`."""

    id: int
    offset: int
    y: Buffer
    fallback: bool = False


@dataclass(slots=True, eq=False, repr=False)
class StreamResponse(_Message):
    """`mse_grad.v1.StreamGradientsResponse`; rare parts stay generated messages."""

    opened: pb.StreamOpened | None = None
    results: list[Result] = field(default_factory=list)
    errors: list[pb.GradientError] = field(default_factory=list)
    go_away: pb.GoAway | None = None


@dataclass(slots=True, eq=False, repr=False)
class TensorFrame(_Message):
    """`mse_grad.v1.Tensor`; numbers as received, unchecked."""

    dtype: int
    shape: tuple[int, ...]
    data: Buffer


@dataclass(slots=True, eq=False, repr=False)
class UnaryRequest(_Message):
    """`mse_grad.v1.ComputeGradientRequest`; an operand that is not set is an empty frame of dtype 0."""

    predict: TensorFrame
    label: TensorFrame
    dout: TensorFrame
    reduction: int
    numel: int = 0


@dataclass(slots=True, eq=False, repr=False)
class UnaryResponse(_Message):
    """`mse_grad.v1.ComputeGradientResponse`."""

    y: TensorFrame
    fallback: bool = False
