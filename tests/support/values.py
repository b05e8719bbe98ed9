"""Operands and their expected gradient."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np

from mse_grad.formula import coefficient, gradient_into
from mse_grad.tensor import FLOAT32, Array, DType, Reduction, dtype_of

__all__ = ["Operands", "expected", "operands"]

Operands: TypeAlias = tuple[Array, Array, Array]


def operands(shape: tuple[int, ...], dtype: DType = FLOAT32, *, seed: int = 7) -> Operands:
    """Returns predict, label and a full dout of normally distributed numbers."""
    rng = np.random.default_rng(seed)
    predict, label, dout = (np.asarray(rng.standard_normal(shape)).astype(dtype.numpy) for _ in range(3))
    return predict, label, dout


def expected(predict: Array, label: Array, dout: Array, reduction: str = "mean", *, numel: int = 0) -> Array:
    """Returns the gradient by the formula, bit for bit, in native byte order."""
    dtype = dtype_of(predict.dtype, field="predict")
    y = np.empty(predict.shape, dtype.numpy)
    if predict.size:
        c = coefficient(Reduction.parse(reduction), numel or predict.size, dtype)
        flat = dout.reshape(-1) if dout.shape == predict.shape else dout.reshape(1)
        native = (array.astype(dtype.numpy) for array in (predict.reshape(-1), label.reshape(-1), flat))
        gradient_into(y.reshape(-1), *native, c=c, dtype=dtype)
    return y
