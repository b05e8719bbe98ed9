"""Formula `y = ((predict - label) * c) * dout` in NumPy: the reference of every backend, bit for bit.

Source: the numerical contract in docs/numerics.md. Thread safety: pure.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mse_grad.tensor import FLOAT16, Array, DType, Reduction

__all__ = ["coefficient", "gradient_into"]

_BLOCK_ELEMENTS = 1 << 15
"""Elements that go through all steps before the next block starts: a block and its operands fit the L2 cache."""

_HALF_SMALLEST_NORMAL = np.float32(2.0**-14)


def coefficient(reduction: Reduction, numel: int, dtype: DType) -> float:
    """Returns c: 2 for none and sum, 2 / numel for mean, rounded to float32 unless `dtype` computes in float64.

    Args:
        reduction: Reduction of the loss.
        numel: Element count of the whole tensor, >= 1 for mean.
        dtype: Element type of the operands.
    """
    if reduction is not Reduction.MEAN:
        return 2.0
    return float(dtype.compute.type(2.0 / numel))


def gradient_into(y: Array, predict: Array, label: Array, dout: Array, *, c: float, dtype: DType) -> None:
    """Writes a gradient to `y`.

    Args:
        y: Elements of `dtype`, writable, overlapping none of the others; alignment is not assumed.
        predict: Elements of `dtype` in the shape of y.
        label: Elements of `dtype` in the shape of y.
        dout: Elements of `dtype` in the shape of y, or one element.
        c: The coefficient, from `coefficient`.
        dtype: Element type; float32 is the intermediate for all but float64.
    """
    with np.errstate(all="ignore"):
        factor = dtype.compute.type(c)
        scalar = dout.size == 1
        for start in range(0, y.size, _BLOCK_ELEMENTS):
            block = slice(start, start + _BLOCK_ELEMENTS)
            _block_into(y[block], predict[block], label[block], dout if scalar else dout[block], factor, dtype)


def _block_into(y: Array, predict: Array, label: Array, dout: Array, factor: Any, dtype: DType) -> None:
    compute = dtype.compute
    if dtype.numpy == compute:
        wide = np.subtract(predict, label, out=y)
    else:
        wide = predict.astype(compute)
        wide -= label.astype(compute)
    wide *= factor
    wide *= dout.astype(compute, copy=False)
    if dtype is FLOAT16:
        _round_to_subnormals(wide)
    if wide is not y:
        y[...] = wide


def _round_to_subnormals(wide: Array) -> None:
    """Rounds values in the subnormal range of float16, so that the later cast is exact there.

    NumPy's cast raises the processor's underflow flag for each subnormal that it rounds, which costs 65 ns per element
    instead of 3, and the mean of a large tensor has almost only subnormals. In float32 the numbers from 0.5 on are
    2^-24 apart, as the subnormals of float16 are. So adding 0.5 rounds to them, ties to even.
    """
    magnitude = np.abs(wide)
    small = magnitude < _HALF_SMALLEST_NORMAL
    if not small.any():
        return
    magnitude += np.float32(0.5)
    magnitude -= np.float32(0.5)
    np.copysign(magnitude, wide, out=wide, where=small)
