"""The formula `y = ((predict - label) * c) * dout` in NumPy: the reference of every backend, bit for bit.

Source: the numerical contract in docs/numerics.md. Thread safety: pure.
"""

from __future__ import annotations

import numpy as np

from mse_grad.tensor import Array, DType, Reduction

__all__ = ["coefficient", "gradient_into"]


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
    """Writes the gradient of n elements to `y`.

    Args:
        y: n elements of `dtype`, writable.
        predict: n elements of `dtype`.
        label: n elements of `dtype`.
        dout: n elements, or one, of `dtype`.
        c: The coefficient, from `coefficient`.
        dtype: Element type; float32 is the intermediate for all but float64.
    """
    compute = dtype.compute
    with np.errstate(all="ignore"):
        wide = predict.astype(compute)  # a copy, also for float32: it is worked on in place
        wide -= label.astype(compute, copy=False)
        wide *= compute.type(c)
        wide *= dout.astype(compute, copy=False)
        y[...] = wide.astype(dtype.numpy, copy=False)
