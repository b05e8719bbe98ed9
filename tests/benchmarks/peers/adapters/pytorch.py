"""PyTorch's own gradient on one thread, in the client's process. Needs torch; takes part only if it is installed."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from benchmarks.peers.adapters.operands import Array, Call, Operands, Prepare

__all__ = ["DISTRIBUTION", "SAME_BITS", "new_array", "out_given"]

DISTRIBUTION = "torch"
SAME_BITS = False  # PyTorch rounds each step for 16-bit operands

_SUM = 2  # at::Reduction::Sum


def new_array(_address: str) -> Prepare:
    """Returns the gradient in a new array, as PyTorch's autograd does."""
    torch.set_num_threads(1)
    backward = torch.ops.aten.mse_loss_backward

    def prepare(operands: Operands) -> Call:
        dtype = operands.predict.dtype
        predict, label, dout = (_tensor(one) for one in (operands.predict, operands.label, operands.dout))
        as_bits = getattr(torch, f"int{8 * dtype.itemsize}")

        def call() -> Array:
            y: Array = backward(dout, predict, label, _SUM).view(as_bits).numpy().view(dtype)
            return y

        return call

    return prepare


def out_given(_address: str) -> Prepare:
    """Writes the gradient to an existing array, which PyTorch's autograd never does."""
    torch.set_num_threads(1)
    backward = torch.ops.aten.mse_loss_backward

    def prepare(operands: Operands) -> Call:
        y = np.empty_like(operands.predict)
        predict, label, dout, out = (_tensor(one) for one in (operands.predict, operands.label, operands.dout, y))

        def call() -> Array:
            backward.grad_input(dout, predict, label, _SUM, grad_input=out)
            return y

        return call

    return prepare


def _tensor(array: Array) -> Any:
    as_bits = np.dtype(f"i{array.dtype.itemsize}")  # torch.from_numpy does not support bfloat16
    return torch.from_numpy(array.view(as_bits)).view(getattr(torch, array.dtype.name))
