"""Operands of one gradient: arrays that fit together by the rules of the operator."""

from __future__ import annotations

from collections.abc import Hashable
from functools import lru_cache, partial
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike

from mse_grad.record import Record
from mse_grad.rules import check_dout_shape, check_numel, check_same_dtype, check_same_shape, element_count
from mse_grad.tensor import Array, DType, Reduction, dtype_of
from mse_grad_client.kinds import Restore, restore_of
from mse_grad_client.operand import dout_array, operand_array

__all__ = ["Empty", "Operands"]


class Empty(Protocol):
    """A function that makes an uninitialized array in C order."""

    def __call__(self, shape: tuple[int, ...], dtype: np.dtype[Any], /) -> Array:
        """As `numpy.empty`."""


class Operands(Record):
    """Operands of one gradient, as arrays that fit together.

    Attributes:
        dtype: Element type of all operands.
        predict: Prediction.
        label: Target, of predict's shape.
        dout: Upstream gradient: predict's shape, or one element if `scalar_dout`.
        reduction: Reduction of the loss.
        elements: Elements of predict.
        scalar_dout: Whether dout is a single element.
        restore: Makes an array of the kind of predict, as given, from the gradient; None for NumPy's.
    """

    __slots__ = ("dout", "dtype", "elements", "label", "predict", "reduction", "restore", "scalar_dout")

    def __init__(
        self,
        dtype: DType,
        predict: Array,
        label: Array,
        dout: Array,
        reduction: Reduction,
        elements: int,
        scalar_dout: bool,
        restore: Restore | None,
    ) -> None:
        self.dtype = dtype
        self.predict = predict
        self.label = label
        self.dout = dout
        self.reduction = reduction
        self.elements = elements
        self.scalar_dout = scalar_dout
        self.restore = restore

    @classmethod
    def checked(
        cls, predict: ArrayLike, label: ArrayLike, dout: ArrayLike, reduction: object, *, numel: int = 0
    ) -> Operands:
        """Returns the operands as arrays.

        Raises:
            ContractError: A rule of the operator is broken; names it by reason and field.
        """
        predict_array, label_array = operand_array(predict, field="predict"), operand_array(label, field="label")
        dtype = dtype_of(predict_array.dtype, field="predict")
        upstream = dout_array(dout, dtype)
        count, parsed, scalar_dout = _checked(
            predict_array.dtype,
            predict_array.shape,
            label_array.dtype,
            label_array.shape,
            upstream.dtype,
            upstream.shape,
            reduction if isinstance(reduction, str) else Reduction.parse(reduction).text,
            numel,
        )
        restore = None if predict_array is predict else restore_of(predict, label, dout)
        return cls(dtype, predict_array, label_array, upstream, parsed, count, scalar_dout, restore)

    @property
    def pack_key(self) -> Hashable:
        """A key that operands which may be packed together share; None for operands that travel alone."""
        # Operands in foreign byte order are not packed: their gradient, or a scalar dout, would need swapping.
        if not (self.predict.dtype.isnative and self.dout.dtype.isnative):
            return None
        return self.dtype, self.predict.shape, self.dout.tobytes() if self.scalar_dout else None

    def copied(self, empty: Empty | None = None) -> Operands:
        """Returns the same operands in memory that the caller cannot change.

        Args:
            empty: Makes that memory, as `numpy.empty` does; None for ordinary memory.
        """
        copy = np.ndarray.copy if empty is None else partial(_copy, empty=empty)
        return Operands(
            self.dtype,
            copy(self.predict),
            copy(self.label),
            copy(self.dout),
            self.reduction,
            self.elements,
            self.scalar_dout,
            self.restore,
        )


# Cached, because a training loop repeats the same shapes; errors are not cached.
@lru_cache(maxsize=1024)
def _checked(
    predict_dtype: np.dtype[Any],
    shape: tuple[int, ...],
    label_dtype: np.dtype[Any],
    label_shape: tuple[int, ...],
    dout_dtype: np.dtype[Any],
    dout_shape: tuple[int, ...],
    reduction: str,
    numel: int,
) -> tuple[int, Reduction, bool]:
    """Returns the element count, the reduction and whether dout is a scalar; raises ContractError."""
    dtype = dtype_of(predict_dtype, field="predict")
    check_same_dtype(dtype, dtype_of(label_dtype, field="label"), field="label")
    check_same_dtype(dtype, dtype_of(dout_dtype, field="dout"), field="dout")
    count = element_count(shape, dtype, field="predict")
    check_same_shape(shape, label_shape)
    scalar_dout = check_dout_shape(shape, dout_shape)
    parsed = Reduction.parse(reduction)
    check_numel(numel, count, parsed)
    return count, parsed, scalar_dout


def _copy(array: Array, *, empty: Empty) -> Array:
    copied = empty(array.shape, array.dtype)
    copied[...] = array
    return copied
