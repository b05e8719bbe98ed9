"""The operator's CPU kernel: the compiled one if this install has it, else PyTorch's own operations.

Both give the same bits: the formula of docs/numerics.md leaves no room for another rounding.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch

from mse_grad.formula import coefficient
from mse_grad.tensor import FLOAT64, DType, Reduction
from mse_grad_kernel.native import LibraryUnusable, NativeKernel

__all__ = ["compute"]


def compute(dtype: DType, reduction: Reduction, predict: Any, label: Any, dout: Any, *, scalar_dout: bool) -> Any:
    """Returns the gradient of checked CPU tensors as a new contiguous tensor.

    Args:
        dtype: Element type of all of them.
        reduction: How the loss was reduced.
        predict: Any shape and strides.
        label: predict's shape, any strides.
        dout: predict's shape or one element, any strides.
        scalar_dout: Whether dout is one element for all of predict's.
    """
    predict, label, dout = predict.contiguous(), label.contiguous(), dout.contiguous()
    y = torch.empty_like(predict)
    count = predict.numel()
    if count == 0:
        return y
    c = coefficient(reduction, count, dtype)
    kernel = _kernel()
    if kernel is None:
        wide = torch.float64 if dtype is FLOAT64 else torch.float32
        difference = predict.to(wide) - label.to(wide)
        return y.copy_(difference.mul_(c).mul_(dout.to(wide)))
    addresses = (predict.data_ptr(), label.data_ptr(), dout.data_ptr(), y.data_ptr())
    kernel.compute_at(kernel.variants[0], dtype, count, addresses, c=c, scalar_dout=scalar_dout)
    return y


@cache
def _kernel() -> NativeKernel | None:
    """Returns the compiled kernel; None if this install has none."""
    try:
        return NativeKernel.load()
    except LibraryUnusable:
        return None
