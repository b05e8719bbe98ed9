"""Lower bounds without a wire: the kernel called directly, the formula in NumPy, and a mere copy of the bytes."""

from __future__ import annotations

import numpy as np

from benchmarks.peers.adapters.operands import Array, Call, Operands, Prepare
from mse_grad.formula import coefficient, gradient_into
from mse_grad.tensor import Reduction, dtype_of
from mse_grad_server.backends.base import Gradient, GradientSpec
from mse_grad_server.backends.cpu import CpuBackend

__all__ = ["DISTRIBUTION", "copy", "formula", "kernel", "kernel_into_new_array"]

DISTRIBUTION = "mse-grad"


def kernel(_address: str) -> Prepare:
    """The kernel on one thread, into an existing array."""
    return _kernel(new_array=False)


def kernel_into_new_array(_address: str) -> Prepare:
    """The kernel on one thread, into a new array each time, as PyTorch's autograd and the SDK return it."""
    return _kernel(new_array=True)


def formula(_address: str) -> Prepare:
    """The formula in NumPy, into a new array each time."""

    def prepare(operands: Operands) -> Call:
        dtype = dtype_of(operands.predict.dtype, field="predict")
        c = coefficient(Reduction.SUM, operands.predict.size, dtype)

        def call() -> Array:
            y = np.empty_like(operands.predict)
            gradient_into(y, operands.predict, operands.label, operands.dout, c=c, dtype=dtype)
            return y

        return call

    return prepare


def copy(_address: str) -> Prepare:
    """A memcpy of as many bytes as three operands and a gradient have; the "gradient" existed before."""

    def prepare(operands: Operands) -> Call:
        golden = np.array(operands.golden)
        sources = (operands.predict, operands.label, operands.dout, golden)
        copies = tuple(np.empty_like(source) for source in sources)

        def call() -> Array:
            for source, target in zip(sources, copies, strict=True):
                np.copyto(target, source)
            return copies[-1]

        return call

    return prepare


def _kernel(*, new_array: bool) -> Prepare:
    backend = CpuBackend()
    backend.open()

    def prepare(operands: Operands) -> Call:
        dtype = dtype_of(operands.predict.dtype, field="predict")
        spec = GradientSpec(dtype, Reduction.SUM, operands.predict.size, scalar_dout=False)
        existing = np.empty_like(operands.predict)

        def call() -> Array:
            y = np.empty_like(operands.predict) if new_array else existing
            backend.compute(Gradient(spec, operands.predict, operands.label, operands.dout, y))
            return y

        return call

    return prepare
