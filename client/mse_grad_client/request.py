"""What a caller asked for, checked and laid out for the wire."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import ArrayLike

from mse_grad.reasons import ContractError, Reason
from mse_grad.rules import check_dout_shape, check_numel, check_same_dtype, check_same_shape, element_count
from mse_grad.tensor import Array, Buffer, DType, Reduction, dtype_of, little_endian_bytes

__all__ = ["Empty", "GradientRequest", "Operands"]


class Empty(Protocol):
    """Makes an array of unset elements in C order."""

    def __call__(self, shape: tuple[int, ...], dtype: np.dtype[Any], /) -> Array:
        """As `numpy.empty`."""


class Operands(NamedTuple):
    """What a caller gave, as arrays that fit together.

    Attributes:
        dtype: Element type of all.
        predict: Prediction.
        label: Target, of predict's shape.
        dout: Upstream gradient: predict's shape, or one element where `scalar_dout`.
        reduction: Reduction of the loss.
        elements: Elements of predict.
        scalar_dout: Whether dout is a single element.
    """

    dtype: DType
    predict: Array
    label: Array
    dout: Array
    reduction: Reduction
    elements: int
    scalar_dout: bool

    @classmethod
    def checked(
        cls, predict: ArrayLike, label: ArrayLike, dout: ArrayLike, reduction: object, *, numel: int = 0
    ) -> Operands:
        """Returns the operands as arrays.

        Raises:
            ContractError: A rule of the operator is broken; says which, by reason and field.
        """
        predict_array, label_array = np.asarray(predict), np.asarray(label)
        dtype = dtype_of(predict_array.dtype, field="predict")
        dout_array = _dout_array(dout, dtype)
        count, parsed, scalar_dout = _checked(
            dtype,
            predict_array.shape,
            label_array.dtype,
            label_array.shape,
            dout_array.dtype,
            dout_array.shape,
            reduction if isinstance(reduction, str) else Reduction.parse(reduction).text,
            numel,
        )
        return cls(dtype, predict_array, label_array, dout_array, parsed, count, scalar_dout)

    @property
    def pack_key(self) -> Hashable:
        """What is the same for operands that may be packed together; None for those that go alone."""
        if self.predict.dtype.byteorder == ">":  # its gradient is swapped, each on its own
            return None
        return self.dtype, self.predict.shape, self.dout.tobytes() if self.scalar_dout else None


@dataclass(slots=True, eq=False)  # not frozen, which would take two microseconds for each
class GradientRequest:
    """One gradient to compute: operands as little-endian bytes in C order, and where the gradient goes. Never changed.

    Attributes:
        dtype: Element type of all operands and of the gradient.
        shape: Shape of predict, label and the gradient; of one where there are several.
        tensors: How many tensors of `shape` lie one after another.
        count: Elements of all of them.
        reduction: Reduction of the loss.
        numel: N of the whole tensor where this is a part of it; 0 where it is the whole.
        predict: `count` elements.
        label: `count` elements.
        dout: `count` elements, or one where `scalar_dout`.
        dout_shape: Shape of dout as it was given.
        scalar_dout: Whether dout is a single element.
        y: `count` elements, writable: the gradient.
    """

    dtype: DType
    shape: tuple[int, ...]
    tensors: int
    count: int
    reduction: Reduction
    numel: int
    predict: memoryview
    label: memoryview
    dout: memoryview
    dout_shape: tuple[int, ...]
    scalar_dout: bool
    y: memoryview
    _result: Array
    _given_out: Array | None

    @classmethod
    def prepare(
        cls,
        predict: ArrayLike,
        label: ArrayLike,
        dout: ArrayLike,
        reduction: object,
        *,
        out: Array | None,
        numel: int,
    ) -> GradientRequest:
        """Returns the request, without a copy of any operand that is C-contiguous and little-endian already.

        Raises:
            ContractError: A rule of the operator is broken; says which, by reason and field.
        """
        return cls.of(Operands.checked(predict, label, dout, reduction, numel=numel), out=out, numel=numel)

    @classmethod
    def of(cls, operands: Operands, *, out: Array | None = None, numel: int = 0) -> GradientRequest:
        """As `prepare`, of what was checked."""
        predict_array, label_array, dout_array = operands.predict, operands.label, operands.dout
        dtype = operands.dtype
        if out is not None:
            _check_out(out, predict_array)
        result = _result_array(out, predict_array, label_array, dout_array, dtype)
        return cls(
            dtype=dtype,
            shape=predict_array.shape,
            tensors=1,
            count=operands.elements,
            reduction=operands.reduction,
            numel=numel,
            predict=little_endian_bytes(predict_array),
            label=little_endian_bytes(label_array),
            dout=little_endian_bytes(dout_array),
            dout_shape=dout_array.shape,
            scalar_dout=operands.scalar_dout,
            y=result.reshape(-1).view(np.uint8).data,
            _result=result,
            _given_out=_out_or_swapped(out, predict_array),
        )

    @classmethod
    def pack(cls, several: Sequence[Operands], *, empty: Empty = np.empty) -> GradientRequest:
        """Returns one request for all of `several`, with a copy of their operands; its gradient has one more axis.

        Args:
            several: Operands that may be packed together: their `pack_key` is the same.
            empty: Makes the arrays that they are copied to, as `numpy.empty` does.
        """
        first = several[0]
        # In C order, whatever the order of what goes in.
        shape, dtype = (len(several), *first.predict.shape), first.dtype.numpy
        predict = np.stack([each.predict for each in several], out=empty(shape, dtype))
        label = np.stack([each.label for each in several], out=empty(shape, dtype))
        dout = first.dout
        if not first.scalar_dout:
            dout = np.stack([each.dout for each in several], out=empty(shape, dtype))
        result = np.empty(shape, dtype)
        return cls(
            dtype=first.dtype,
            shape=first.predict.shape,
            tensors=len(several),
            count=first.elements * len(several),
            reduction=first.reduction,
            numel=0,
            predict=little_endian_bytes(predict),
            label=little_endian_bytes(label),
            dout=little_endian_bytes(dout),
            dout_shape=dout.shape,
            scalar_dout=first.scalar_dout,
            y=result.reshape(-1).view(np.uint8).data,
            _result=result,
            _given_out=None,
        )

    def fill(self, offset: int, elements: Buffer) -> None:
        """Writes little-endian `elements` of the gradient from element `offset` on."""
        start = offset * self.dtype.itemsize_bytes
        self.y[start : start + len(elements)] = elements

    def gradient(self) -> Array:
        """Returns the gradient once it is filled: the caller's `out`, or an array of predict's shape and dtype."""
        if self._given_out is None:
            return self._result
        if self._given_out is not self._result:
            self._given_out[...] = self._result
        return self._given_out


# Cached, since a training loop asks for the same shapes over and over; errors are not.
@lru_cache(maxsize=1024)
def _checked(
    dtype: DType,
    shape: tuple[int, ...],
    label_dtype: np.dtype[Any],
    label_shape: tuple[int, ...],
    dout_dtype: np.dtype[Any],
    dout_shape: tuple[int, ...],
    reduction: str,
    numel: int,
) -> tuple[int, Reduction, bool]:
    """Returns the element count, the reduction and whether dout is a scalar; raises ContractError."""
    check_same_dtype(dtype, dtype_of(label_dtype, field="label"), field="label")
    check_same_dtype(dtype, dtype_of(dout_dtype, field="dout"), field="dout")
    count = element_count(shape, dtype, field="predict")
    check_same_shape(shape, label_shape)
    scalar_dout = check_dout_shape(shape, dout_shape)
    parsed = Reduction.parse(reduction)
    check_numel(numel, count, parsed)
    return count, parsed, scalar_dout


def _dout_array(dout: ArrayLike, dtype: DType) -> Array:
    # A Python number takes the dtype of predict; np.float64 is a subclass of float, but an array scalar with a dtype.
    if isinstance(dout, (int, float)) and not isinstance(dout, (bool, np.generic)):
        with np.errstate(over="ignore"):  # 1e6 in float16 is infinity, as in PyTorch
            return np.asarray(dout, dtype=dtype.numpy)
    return np.asarray(dout)


def _check_out(out: Any, predict: Array) -> None:
    if not isinstance(out, np.ndarray):
        raise ContractError(Reason.SHAPE_MISMATCH, "out", f"out is a {type(out).__name__}; it must be a NumPy array")
    if out.dtype != predict.dtype:
        raise ContractError(
            Reason.DTYPE_MISMATCH, "out", f"predict has dtype {predict.dtype}, out has {out.dtype}; they must be equal"
        )
    if out.shape != predict.shape:
        raise ContractError(
            Reason.SHAPE_MISMATCH,
            "out",
            f"predict has shape {list(predict.shape)}, out has {list(out.shape)}; they must be equal",
        )
    if not out.flags.writeable:
        raise ContractError(Reason.SHAPE_MISMATCH, "out", "out is read-only; it must be writable")


def _result_array(out: Array | None, predict: Array, label: Array, dout: Array, dtype: DType) -> Array:
    # Where out overlaps an operand, a range answered early would change what a retry sends: it is filled at the end.
    overlap = np.may_share_memory
    if (
        out is not None
        and out.flags.c_contiguous
        and out.dtype == dtype.numpy
        and not (overlap(out, predict) or overlap(out, label) or overlap(out, dout))
    ):
        return out
    return np.empty(predict.shape, dtype=dtype.numpy)


def _out_or_swapped(out: Array | None, predict: Array) -> Array | None:
    if out is None and predict.dtype.byteorder == ">":
        return np.empty(predict.shape, dtype=predict.dtype)
    return out
