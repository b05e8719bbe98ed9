"""Functions that compute a gradient without a server, in the form that the bar judges."""

from __future__ import annotations

import numpy as np

from mse_grad.formula import coefficient, gradient_into
from mse_grad.tensor import Array, Reduction, dtype_of
from mse_grad_cli.conformance import Compute, Dout, PartCompute
from mse_grad_cli.conformance.case import part_of
from mse_grad_server.backends.base import Backend, Gradient, GradientSpec

__all__ = ["backend_compute", "backend_part", "formula_compute", "formula_part"]


def formula_compute(predict: Array, label: Array, dout: Dout, reduction: str) -> Array:
    """The NumPy formula, in this process."""
    return formula_part(predict, label, dout, reduction, 0)


def formula_part(predict: Array, label: Array, dout: Dout, reduction: str, numel: int) -> Array:
    """The NumPy formula for a part of a tensor of `numel` elements; 0 for the whole."""
    dtype = dtype_of(predict.dtype, field="predict")
    x, t, g = (np.ascontiguousarray(operand, dtype.numpy).reshape(-1) for operand in (predict, label, dout))
    y = np.empty_like(x)
    if x.size:
        gradient_into(y, x, t, g, c=coefficient(Reduction.parse(reduction), numel or x.size, dtype), dtype=dtype)
    return y.reshape(predict.shape)


def backend_compute(backend: Backend) -> Compute:
    """Returns an open backend of the server as a function that the bar can judge."""
    return part_of(backend_part(backend), 0)


def backend_part(backend: Backend) -> PartCompute:
    """Returns an open backend of the server as a function for parts of larger tensors."""

    def compute(predict: Array, label: Array, dout: Dout, reduction: str, numel: int) -> Array:
        dtype = dtype_of(predict.dtype, field="predict")
        x, t, g = (np.ascontiguousarray(operand, dtype.numpy).reshape(-1) for operand in (predict, label, dout))
        y = np.empty_like(x)
        if x.size:
            spec = GradientSpec(
                dtype, Reduction.parse(reduction), numel or x.size, scalar_dout=np.shape(dout) != predict.shape
            )
            backend.compute(Gradient(spec, x, t, g, y))
        return y.reshape(predict.shape)

    return compute
