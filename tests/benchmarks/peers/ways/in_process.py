"""Floors without a wire: the kernel called directly, and the bytes merely copied."""

from __future__ import annotations

import numpy as np

from benchmarks.peers.ways.operands import Array, Call, Operands, Prepare
from mse_grad.tensor import Reduction, dtype_of
from mse_grad_server.backends.base import GradientSpec
from mse_grad_server.backends.cpu import CpuBackend

__all__ = ["DISTRIBUTION", "copy", "kernel"]

DISTRIBUTION = "mse-grad"


def kernel(_address: str) -> Prepare:
    """The kernel on one thread, into an array that is there."""
    backend = CpuBackend()
    backend.open()

    def prepare(operands: Operands) -> Call:
        dtype = dtype_of(operands.predict.dtype, field="predict")
        spec = GradientSpec(dtype, Reduction.SUM, operands.predict.size, scalar_dout=False)
        y = np.empty_like(operands.predict)

        def call() -> Array:
            backend.compute(spec, operands.predict, operands.label, operands.dout, y)
            return y

        return call

    return prepare


def copy(_address: str) -> Prepare:
    """As many bytes as three operands and a gradient have, copied by memcpy; what it "computes" was there before."""

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
