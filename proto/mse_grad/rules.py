"""Rules of the operator for shapes, dtypes and counts; pure, and the same for client and server.

Every function raises `ContractError` with the reason and the wrong field. The limits are those of the operator:
rank 0 to 8, 64-bit element counts.
"""

from __future__ import annotations

from collections.abc import Sequence

from mse_grad.reasons import ContractError, Reason
from mse_grad.tensor import DType, Reduction

__all__ = [
    "MAX_RANK",
    "check_dout_shape",
    "check_numel",
    "check_same_dtype",
    "check_same_shape",
    "check_tensors",
    "element_count",
    "shape_text",
]

MAX_RANK = 8
_MAX_BYTES = _MAX_COUNT = 2**63 - 1


def element_count(shape: Sequence[int], dtype: DType, *, field: str) -> int:
    """Returns the number of elements of `shape`, 1 for rank 0.

    Raises:
        ContractError: RANK_TOO_HIGH past 8 dimensions; SHAPE_INVALID for a negative dimension, or if the tensor
            would have more than 2^63 - 1 bytes.
    """
    if len(shape) > MAX_RANK:
        raise ContractError(
            Reason.RANK_TOO_HIGH, field, f"{field} has {len(shape)} dimensions; at most {MAX_RANK} are allowed"
        )
    count = 1
    for extent in shape:
        if extent < 0:
            raise ContractError(
                Reason.SHAPE_INVALID, field, f"{field} has shape {shape_text(shape)}; no dimension may be negative"
            )
        count *= extent
    if count * dtype.itemsize_bytes > _MAX_BYTES:
        raise ContractError(
            Reason.SHAPE_INVALID,
            field,
            f"{field} has shape {shape_text(shape)}: more than 2^63 - 1 bytes of {dtype.name}",
        )
    return count


def shape_text(shape: Sequence[int]) -> str:
    """Returns `shape` for an error message, e.g. "[2, 3]"; of too many dimensions, the first and how many."""
    if len(shape) <= MAX_RANK:
        return str(list(shape))
    return f"[{', '.join(map(str, shape[:MAX_RANK]))}, ...] of {len(shape)} dimensions"


def check_same_dtype(predict: DType, other: DType, *, field: str) -> None:
    """Raises ContractError DTYPE_MISMATCH unless `field` has the dtype of predict."""
    if other is not predict:
        raise ContractError(
            Reason.DTYPE_MISMATCH,
            field,
            f"predict has dtype {predict.name}, {field} has {other.name}; they must be equal",
        )


def check_same_shape(predict: Sequence[int], label: Sequence[int]) -> None:
    """Raises ContractError SHAPE_MISMATCH unless the shapes are equal: nothing is broadcast."""
    if tuple(predict) != tuple(label):
        raise ContractError(
            Reason.SHAPE_MISMATCH,
            "label",
            f"predict has shape {shape_text(predict)}, label has {shape_text(label)}; they must be equal",
        )


def check_dout_shape(predict: Sequence[int], dout: Sequence[int]) -> bool:
    """Returns whether dout is a scalar for predict: one element of rank 0 or 1, and not the shape of predict itself.

    Raises:
        ContractError: DOUT_SHAPE_MISMATCH if dout has neither the shape of predict nor one element of rank 0 or 1.
    """
    if tuple(dout) == tuple(predict):
        return False
    if tuple(dout) in ((), (1,)):
        return True
    raise ContractError(
        Reason.DOUT_SHAPE_MISMATCH,
        "dout",
        f"predict has shape {shape_text(predict)}, dout has {shape_text(dout)}; "
        "dout must have the shape of predict or one element of rank 0 or 1",
    )


def check_numel(numel: int, count: int, reduction: Reduction) -> int:
    """Returns the N of the coefficient: `numel`, or `count` if `numel` is 0 (the tensor is the whole).

    Raises:
        ContractError: NUMEL_INVALID if `numel` is negative, smaller than `count`, past 2^63 - 1, or set without mean.
    """
    if numel == 0:
        return count
    if reduction is not Reduction.MEAN:
        raise ContractError(
            Reason.NUMEL_INVALID, "numel", f"numel is {numel} with reduction {reduction.text!r}; only mean has one"
        )
    if numel < count:
        raise ContractError(
            Reason.NUMEL_INVALID, "numel", f"numel is {numel}; it must be at least the element count {count}"
        )
    if numel > _MAX_COUNT:
        raise ContractError(Reason.NUMEL_INVALID, "numel", f"numel is {numel}; it must be at most 2^63 - 1")
    return numel


def check_tensors(tensors: int, count: int, dtype: DType) -> int:
    """Returns the number of elements in `tensors` tensors of `count` elements; 0 tensors stands for one.

    Raises:
        ContractError: TENSORS_INVALID if `tensors` is negative, or all of them have more than 2^63 - 1 bytes.
    """
    if tensors < 0:
        raise ContractError(Reason.TENSORS_INVALID, "tensors", f"tensors is {tensors}; it must not be negative")
    total = max(1, tensors) * count
    if total * dtype.itemsize_bytes > _MAX_BYTES:
        raise ContractError(
            Reason.TENSORS_INVALID,
            "tensors",
            f"tensors is {tensors}: with {count} elements of {dtype.name} each more than 2^63 - 1 bytes",
        )
    return total
