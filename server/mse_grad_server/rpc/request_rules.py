"""Rules of the operator for a request; pure.

The functions take the decoded fields of a message and return the work for the backend. Each raises `ContractError` with
the reason and the field at fault.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from mse_grad.codec import Chunk, Header, SharedRange, UnaryRequest
from mse_grad.metadata import NO_METADATA, valid_metadata
from mse_grad.reasons import ContractError, Reason
from mse_grad.rules import (
    check_dout_shape,
    check_numel,
    check_same_dtype,
    check_same_shape,
    check_tensors,
    element_count,
    shape_text,
)
from mse_grad.tensor import Reduction, dtype_of_wire
from mse_grad_server.backends.base import GradientSpec

__all__ = [
    "Work",
    "check_chunk",
    "check_header",
    "check_shared",
    "check_unary",
    "ids_in_shared_memory",
    "is_whole",
    "metadata_of",
]


@dataclass(frozen=True, slots=True)
class Work:
    """Work of a request.

    Attributes:
        spec: Spec of the gradient.
        count: Elements of predict, in all tensors of the request.
        operand_bytes: Bytes of predict, label and dout.
    """

    spec: GradientSpec
    count: int
    operand_bytes: int


def check_header(header: Header) -> Work:
    """Returns the work of the request that `header` opens.

    Raises:
        ContractError: DTYPE_UNKNOWN, RANK_TOO_HIGH, SHAPE_INVALID, REDUCTION_UNKNOWN, NUMEL_INVALID,
            TENSORS_INVALID, or BYTE_COUNT_MISMATCH if scalar_dout is not one element.
    """
    scalar = header.scalar_dout
    work = _work(header.dtype, header.shape, header.reduction, header.numel, scalar is not None, header.tensors)
    if scalar is not None and len(scalar) != work.spec.dtype.itemsize_bytes:
        raise ContractError(
            Reason.BYTE_COUNT_MISMATCH,
            "scalar_dout",
            f"scalar_dout has {len(scalar)} bytes; one element of {work.spec.dtype.name} has "
            f"{work.spec.dtype.itemsize_bytes}",
        )
    return work


def is_whole(header: Header, chunks: Sequence[Chunk], work: Work) -> bool:
    """Whether the message that opens a request has all of its operands.

    Args:
        header: Header of the request.
        chunks: All chunks of the message.
        work: Work of the request.
    """
    itemsize_bytes = work.spec.dtype.itemsize_bytes
    received_bytes = sum(
        len(chunk.predict) if chunk.shared is None else chunk.shared.elements * itemsize_bytes
        for chunk in chunks
        if chunk.id == header.id
    )
    return received_bytes >= work.count * itemsize_bytes


def ids_in_shared_memory(chunks: Sequence[Chunk]) -> set[int]:
    """Returns the ids of the requests of which one of `chunks` lies in shared memory."""
    return {chunk.id for chunk in chunks if chunk.shared is not None}


def metadata_of(header: Header) -> Mapping[str, str]:
    """Returns the caller's own words in `header`, as far as they are within their bounds; nothing depends on them."""
    return valid_metadata((entry.key, entry.value) for entry in header.metadata) if header.metadata else NO_METADATA


def check_chunk(chunk: Chunk, work: Work, *, received: int) -> int:
    """Returns the number of elements in `chunk`, at least 1.

    Args:
        chunk: Chunk of a request.
        work: Work of the request.
        received: Elements that arrived before.

    Raises:
        ContractError: CHUNK_OUT_OF_ORDER, CHUNK_OUT_OF_RANGE, or BYTE_COUNT_MISMATCH if the operands are not the
            same whole number of elements.
    """
    _check_order(chunk, received)
    spec = work.spec
    size_bytes, itemsize_bytes = len(chunk.predict), spec.dtype.itemsize_bytes
    n, rest = divmod(size_bytes, itemsize_bytes)
    if rest or not n:
        raise ContractError(
            Reason.BYTE_COUNT_MISMATCH,
            "predict",
            f"predict has {size_bytes} bytes in the chunk; a chunk has one or more elements of {spec.dtype.name}, "
            f"{itemsize_bytes} bytes each",
        )
    if len(chunk.label) != size_bytes:
        raise _unequal("label", len(chunk.label), size_bytes)
    dout_bytes = 0 if spec.scalar_dout else size_bytes
    if len(chunk.dout) != dout_bytes:
        raise _unequal("dout", len(chunk.dout), dout_bytes)
    _check_end(received + n, work, field="predict")
    return n


def check_shared(chunk: Chunk, shared: SharedRange, work: Work, *, received: int) -> int:
    """Checks a chunk in shared memory, except its ranges, and returns its element count (>= 1).

    Raises:
        ContractError: CHUNK_OUT_OF_ORDER, CHUNK_OUT_OF_RANGE, or BYTE_COUNT_MISMATCH if the chunk also has operands
            in the message, has no elements, or has a range for dout although the header has scalar_dout.
    """
    _check_order(chunk, received)
    if chunk.predict or chunk.label or chunk.dout:
        raise ContractError(
            Reason.BYTE_COUNT_MISMATCH,
            "shared",
            "the chunk has operands in the message and in shared memory; it may have one of the two",
        )
    if shared.elements < 1:
        raise ContractError(
            Reason.BYTE_COUNT_MISMATCH,
            "shared.elements",
            f"the chunk has {shared.elements} elements; a chunk has one or more",
        )
    if work.spec.scalar_dout and (shared.dout_segment or shared.dout_offset):
        raise ContractError(
            Reason.BYTE_COUNT_MISMATCH,
            "shared.dout_segment",
            "the chunk has a range for dout; it must have none, the header has scalar_dout",
        )
    _check_end(received + shared.elements, work, field="shared.elements")
    return shared.elements


def check_unary(request: UnaryRequest) -> Work:
    """Returns the work of `request`.

    Raises:
        ContractError: Any reason about operands; a missing tensor has dtype number 0 and is DTYPE_UNKNOWN.
    """
    predict, label, dout = request.predict, request.label, request.dout
    dtype = dtype_of_wire(predict.dtype, field="predict")
    check_same_dtype(dtype, dtype_of_wire(label.dtype, field="label"), field="label")
    check_same_dtype(dtype, dtype_of_wire(dout.dtype, field="dout"), field="dout")
    element_count(predict.shape, dtype, field="predict")
    check_same_shape(predict.shape, label.shape)
    scalar_dout = check_dout_shape(predict.shape, dout.shape)
    work = _work(predict.dtype, predict.shape, request.reduction, request.numel, scalar_dout, 0)
    whole_bytes = work.count * dtype.itemsize_bytes
    dout_bytes = dtype.itemsize_bytes if scalar_dout else whole_bytes
    for field, tensor, size_bytes in (
        ("predict", predict, whole_bytes),
        ("label", label, whole_bytes),
        ("dout", dout, dout_bytes),
    ):
        if len(tensor.data) != size_bytes:
            raise ContractError(
                Reason.BYTE_COUNT_MISMATCH,
                field,
                f"{field} has {len(tensor.data)} bytes; shape {shape_text(tensor.shape)} of {dtype.name} has "
                f"{size_bytes}",
            )
    return work


# Most callers send the same few shapes again and again: the cache replaces all checks by one look-up.
@lru_cache(maxsize=1024)
def _work(
    dtype_number: int, shape: tuple[int, ...], reduction_number: int, numel: int, scalar_dout: bool, tensors: int
) -> Work:
    dtype = dtype_of_wire(dtype_number, field="predict")
    each = element_count(shape, dtype, field="predict")
    reduction = Reduction.of_wire(reduction_number)
    spec = GradientSpec(dtype, reduction, check_numel(numel, each, reduction), scalar_dout)
    count = check_tensors(tensors, each, dtype)
    operand_bytes = count * dtype.itemsize_bytes * (2 if scalar_dout else 3)
    return Work(spec, count, operand_bytes)


def _check_order(chunk: Chunk, received: int) -> None:
    if chunk.offset != received:
        raise ContractError(
            Reason.CHUNK_OUT_OF_ORDER,
            "offset",
            f"the chunk starts at element {chunk.offset}; the next one of this request is {received}",
        )


def _check_end(end: int, work: Work, *, field: str) -> None:
    if end > work.count:
        raise ContractError(
            Reason.CHUNK_OUT_OF_RANGE,
            field,
            f"the chunk ends at element {end}; the shape of this request has {work.count}",
        )


def _unequal(field: str, size_bytes: int, expected_bytes: int) -> ContractError:
    if not expected_bytes:
        message = f"dout has {size_bytes} bytes in the chunk; it must be empty, the header has scalar_dout"
    else:
        message = f"{field} has {size_bytes} bytes in the chunk; predict has {expected_bytes}, and they must be equal"
    return ContractError(Reason.BYTE_COUNT_MISMATCH, field, message)
