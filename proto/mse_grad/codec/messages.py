"""Plain values for the messages of the hot path; each mirrors one message of `mse_grad.v1`, field by field."""

from __future__ import annotations

from collections.abc import Iterator

from mse_grad.record import Record
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


class MetadataEntry(Record):
    """`mse_grad.v1.MetadataEntry`; as received, unchecked."""

    __slots__ = ("key", "value")

    def __init__(self, key: str, value: str) -> None:
        self.key = key
        self.value = value


class Header(Record):
    """`mse_grad.v1.GradientHeader`; numbers as received, unchecked."""

    __slots__ = (
        "id",
        "dtype",
        "shape",
        "reduction",
        "scalar_dout",
        "numel",
        "time_left_us",
        "request_id",
        "traceparent",
        "tensors",
        "metadata",
    )

    def __init__(
        self,
        id: int,
        dtype: int,
        shape: tuple[int, ...],
        reduction: int,
        scalar_dout: Buffer | None = None,
        numel: int = 0,
        time_left_us: int = 0,
        request_id: str = "",
        traceparent: str = "",
        tensors: int = 0,
        metadata: tuple[MetadataEntry, ...] = (),
    ) -> None:
        self.id = id
        self.dtype = dtype
        self.shape = shape
        self.reduction = reduction
        self.scalar_dout = scalar_dout
        self.numel = numel
        self.time_left_us = time_left_us
        self.request_id = request_id
        self.traceparent = traceparent
        self.tensors = tensors
        self.metadata = metadata


class SharedRange(Record):
    """`mse_grad.v1.SharedRange`; numbers as received, unchecked."""

    __slots__ = (
        "elements",
        "predict_segment",
        "predict_offset",
        "label_segment",
        "label_offset",
        "dout_segment",
        "dout_offset",
        "y_segment",
        "y_offset",
    )

    def __init__(
        self,
        elements: int,
        predict_segment: int,
        predict_offset: int,
        label_segment: int,
        label_offset: int,
        dout_segment: int,
        dout_offset: int,
        y_segment: int,
        y_offset: int,
    ) -> None:
        self.elements = elements
        self.predict_segment = predict_segment
        self.predict_offset = predict_offset
        self.label_segment = label_segment
        self.label_offset = label_offset
        self.dout_segment = dout_segment
        self.dout_offset = dout_offset
        self.y_segment = y_segment
        self.y_offset = y_offset


class Chunk(Record):
    """`mse_grad.v1.GradientChunk`."""

    __slots__ = ("id", "offset", "predict", "label", "dout", "shared")

    def __init__(
        self,
        id: int,
        offset: int,
        predict: Buffer,
        label: Buffer,
        dout: Buffer = b"",
        shared: SharedRange | None = None,
    ) -> None:
        self.id = id
        self.offset = offset
        self.predict = predict
        self.label = label
        self.dout = dout
        self.shared = shared


class StreamRequest(Record):
    """`mse_grad.v1.StreamGradientsRequest`."""

    __slots__ = ("headers", "chunks", "cancel_ids")

    def __init__(
        self,
        headers: list[Header] | None = None,
        chunks: list[Chunk] | None = None,
        cancel_ids: list[int] | None = None,
    ) -> None:
        self.headers = [] if headers is None else headers
        self.chunks = [] if chunks is None else chunks
        self.cancel_ids = [] if cancel_ids is None else cancel_ids

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


class Result(Record):
    """`mse_grad.v1.GradientResult`."""

    __slots__ = ("id", "offset", "y", "fallback")

    def __init__(self, id: int, offset: int, y: Buffer, fallback: bool = False) -> None:
        self.id = id
        self.offset = offset
        self.y = y
        self.fallback = fallback


class StreamResponse(Record):
    """`mse_grad.v1.StreamGradientsResponse`; rare parts stay generated messages."""

    __slots__ = ("opened", "results", "errors", "go_away")

    def __init__(
        self,
        opened: pb.StreamOpened | None = None,
        results: list[Result] | None = None,
        errors: list[pb.GradientError] | None = None,
        go_away: pb.GoAway | None = None,
    ) -> None:
        self.opened = opened
        self.results = [] if results is None else results
        self.errors = [] if errors is None else errors
        self.go_away = go_away


class TensorFrame(Record):
    """`mse_grad.v1.Tensor`; numbers as received, unchecked."""

    __slots__ = ("dtype", "shape", "data")

    def __init__(self, dtype: int, shape: tuple[int, ...], data: Buffer) -> None:
        self.dtype = dtype
        self.shape = shape
        self.data = data


class UnaryRequest(Record):
    """`mse_grad.v1.ComputeGradientRequest`; an operand that is not set is an empty frame of dtype 0."""

    __slots__ = ("predict", "label", "dout", "reduction", "numel")

    def __init__(
        self, predict: TensorFrame, label: TensorFrame, dout: TensorFrame, reduction: int, numel: int = 0
    ) -> None:
        self.predict = predict
        self.label = label
        self.dout = dout
        self.reduction = reduction
        self.numel = numel


class UnaryResponse(Record):
    """`mse_grad.v1.ComputeGradientResponse`."""

    __slots__ = ("y", "fallback")

    def __init__(self, y: TensorFrame, fallback: bool = False) -> None:
        self.y = y
        self.fallback = fallback
