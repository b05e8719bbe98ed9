"""Expected gradients: the golden result, the reference with its intermediates, and the distance between two results.

Source: the bar in docs/numerics.md. Thread safety: pure.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mse_grad.tensor import BFLOAT16, FLOAT64, Array, DType, Reduction

__all__ = ["NAN_DISTANCE", "Reference", "golden", "reference", "round_once", "same_bits", "ulp_distance"]

NAN_DISTANCE = np.iinfo(np.uint64).max
"""Distance between a NaN and any other value."""

_BITS = {2: np.uint16, 4: np.uint32, 8: np.uint64}


@dataclass(frozen=True)
class Reference:
    """Result of the contract's own arithmetic.

    Attributes:
        y: The gradient, every operation in `DType.compute`, rounded once to the dtype. plain: Mask of the elements
        whose intermediates are all normal and finite, or exact zeros. The golden result applies
            only to these.
        finite: Mask of the elements whose intermediates and gradient are all finite. A saturating device has other
        values
            in the rest.
    """

    y: Array
    plain: NDArray[np.bool_]
    finite: NDArray[np.bool_]


def golden(predict: Array, label: Array, dout: Array, *, reduction: Reduction, dtype: DType) -> Array:
    """Returns the golden result: the formula in a wider type, rounded once to `dtype`.

    The wider type is float64. For float64 it is the platform's long double, if that is wider.

    Args:
        predict: n elements of `dtype`, one dimension.
        label: n elements of `dtype`, one dimension.
        dout: n elements, or one.
        reduction: Reduction of the loss.
        dtype: Element type of the operands.
    """
    wider = np.longdouble if dtype is FLOAT64 else np.float64
    with np.errstate(all="ignore"):
        y = predict.astype(wider) - label.astype(wider)
        # Not formula.coefficient, because the golden result must not share its mistakes.
        y *= wider(2) / wider(predict.size) if reduction is Reduction.MEAN and predict.size else wider(2)
        y *= dout.astype(wider)
        return round_once(y, dtype)


def reference(predict: Array, label: Array, dout: Array, *, reduction: Reduction, dtype: DType) -> Reference:
    """Returns `((predict - label) * c) * dout` as the contract computes it, with the domain of every element.

    Args:
        predict: n elements of `dtype`, one dimension.
        label: n elements of `dtype`, one dimension.
        dout: n elements, or one.
        reduction: Reduction of the loss.
        dtype: Element type of the operands.
    """
    compute: Any = dtype.compute.type
    mean = reduction is Reduction.MEAN and predict.size
    c = compute(2.0 / predict.size) if mean else compute(2)
    wide_dout = dout.astype(compute, copy=False)
    with np.errstate(all="ignore"):
        difference = predict.astype(compute, copy=False) - label.astype(compute, copy=False)
        scaled = difference * c
        product = scaled * wide_dout
        y = product.astype(dtype.numpy, copy=False)
    # Rounding never makes a difference zero, but it can make a product zero, and that zero is not exact.
    plain = _normal(difference) | (difference == 0)
    plain &= _normal(scaled) | (difference == 0)
    plain &= _normal(product) | ((product == 0) & ((scaled == 0) | (wide_dout == 0)))
    finite: NDArray[np.bool_] = np.isfinite(difference) & np.isfinite(scaled) & np.isfinite(product) & np.isfinite(y)
    return Reference(y, plain, finite)


def round_once(values: Array, dtype: DType) -> Array:
    """Returns float64 (or, for float64, longer) `values` in `dtype`, rounded once to the nearest, ties to even."""
    with np.errstate(all="ignore"):
        if dtype is not BFLOAT16:
            return values.astype(dtype.numpy, copy=False)
        # ml_dtypes goes through float32 and rounds twice. Through a float32 that is rounded to odd the second rounding
        # sees on which side of a tie the value was (Boldo and Melquiond, "When double rounding is odd", 2005).
        return _to_odd(values).astype(dtype.numpy)


def ulp_distance(a: Array, b: Array) -> NDArray[np.uint64]:
    """Returns the number of representable values between the elements of `a` and `b`, which have one dtype.

    Both zeros are one value, infinity follows the largest finite value, and two NaNs are equal. The distance between a
    NaN and any other value is `NAN_DISTANCE`.
    """
    first, second = _ordered(a), _ordered(b)
    # The difference of two int64 fits into uint64, whose wrap-around gives it exactly.
    distance = np.maximum(first, second).view(np.uint64) - np.minimum(first, second).view(np.uint64)
    a_nan, b_nan = _is_nan(a), _is_nan(b)
    distance[a_nan != b_nan] = NAN_DISTANCE
    distance[a_nan & b_nan] = 0
    return distance


def same_bits(a: Array, b: Array) -> NDArray[np.bool_]:
    """Returns the mask of the elements of `a` and `b` (of one dtype) that are equal in every bit, or both NaN."""
    unsigned = _BITS[a.dtype.itemsize]
    equal: NDArray[np.bool_] = np.ascontiguousarray(a).view(unsigned) == np.ascontiguousarray(b).view(unsigned)
    if not equal.all():
        equal |= _is_nan(a) & _is_nan(b)
    return equal


def _normal(values: Array) -> NDArray[np.bool_]:
    limits = np.finfo(values.dtype)
    magnitude = np.abs(values)
    normal: NDArray[np.bool_] = (magnitude >= limits.smallest_normal) & (magnitude <= limits.max)
    return normal


def _is_nan(values: Array) -> NDArray[np.bool_]:
    with np.errstate(invalid="ignore"):  # a signalling NaN raises the flag
        nan: NDArray[np.bool_] = np.isnan(values)
    return nan


def _to_odd(values: Array) -> Array:
    nearest = values.astype(np.float32)
    back = nearest.astype(np.float64)
    bits = nearest.view(np.uint32)
    move = (back != values) & ((bits & 1) == 0) & ~np.isnan(values)
    bits[move] += np.where(np.abs(back[move]) > np.abs(values[move]), np.uint32(0xFFFFFFFF), np.uint32(1))
    return nearest


def _ordered(values: Array) -> NDArray[np.int64]:
    size = values.dtype.itemsize
    bits = np.ascontiguousarray(values).view(_BITS[size]).astype(np.uint64)
    magnitude = (bits & np.uint64((1 << (8 * size - 1)) - 1)).view(np.int64)
    negative = bits >= np.uint64(1 << (8 * size - 1))
    ordered: NDArray[np.int64] = np.where(negative, -magnitude, magnitude)
    return ordered
