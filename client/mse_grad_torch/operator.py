"""The PyTorch operator: schema, shape function, autograd formula, and one kernel for each kind of device."""

from __future__ import annotations

from typing import Any

import torch

from mse_grad.reasons import ContractError, Reason
from mse_grad.rules import MAX_RANK, check_dout_shape, check_same_dtype, check_same_shape
from mse_grad.tensor import DTYPES, DType, Reduction
from mse_grad_torch import cpu, npu

__all__ = ["mse_loss_grad", "register"]

_NAME = "mse_grad::mse_loss_grad"
_SCHEMA = '(Tensor predict, Tensor label, Tensor dout, str reduction="mean") -> Tensor'
_DTYPES: dict[Any, DType] = {getattr(torch, dtype.name): dtype for dtype in DTYPES}


def mse_loss_grad(predict: Any, label: Any, dout: Any, reduction: str = "mean") -> Any:
    """Returns `2 * (predict - label) * dout`, divided by the element count of predict for "mean".

    The same as `torch.ops.mse_grad.mse_loss_grad`. Source of the arithmetic: docs/numerics.md; the bits are those of
    the service. Gradients of every order flow to predict, label and dout.

    Args:
        predict: Tensor on the CPU or an NPU; float32, float16, bfloat16 or (on the CPU) float64; rank 0 to 8, any
            strides.
        label: Shape, dtype and device of predict.
        dout: Shape of predict or one element of rank 0 or 1; dtype and device of predict.
        reduction: "none", "mean" or "sum".

    Returns:
        A new contiguous tensor with predict's shape, dtype and device. On an NPU it is complete once the current stream
        has reached the launch, as with every operator of torch_npu.

    Raises:
        ValueError: A rule above is broken.
        NotImplementedError: The NPU does not compute this dtype, or PyTorch has no kernel of this operator for the
            device.
        RuntimeError: The operator's library cannot be used, or a call of it failed.

    Thread-safe.
    """
    return torch.ops.mse_grad.mse_loss_grad(predict, label, dout, reduction)


def register() -> None:
    """Registers the operator with PyTorch; to be called once in a process."""
    torch.library.define(_NAME, _SCHEMA, tags=torch.Tag.pt2_compliant_tag)
    torch.library.impl(_NAME, "CPU")(_on_cpu)
    # The dispatch key that torch_npu claims for the device type "npu".
    torch.library.impl(_NAME, "PrivateUse1")(_on_npu)
    torch.library.register_fake(_NAME)(_shape_of)
    torch.library.register_autograd(_NAME, _backward, setup_context=_save)


def _on_cpu(predict: Any, label: Any, dout: Any, reduction: str = "mean") -> Any:
    dtype, parsed, scalar_dout = _checked(predict, label, dout, reduction)
    return cpu.compute(dtype, parsed, predict, label, dout, scalar_dout=scalar_dout)


def _on_npu(predict: Any, label: Any, dout: Any, reduction: str = "mean") -> Any:
    dtype, parsed, _ = _checked(predict, label, dout, reduction)
    return npu.compute(dtype, parsed, predict, label, dout)


def _shape_of(predict: Any, label: Any, dout: Any, reduction: str = "mean") -> Any:
    _checked(predict, label, dout, reduction)
    return predict.new_empty(predict.shape)


def _save(ctx: Any, inputs: tuple[Any, Any, Any, str], output: Any) -> None:
    predict, label, dout, reduction = inputs
    ctx.save_for_backward(predict, label, dout)
    ctx.reduction = reduction


def _backward(ctx: Any, grad: Any) -> tuple[Any, Any, Any, None]:
    """Returns the gradients of y = ((predict - label) * c) * dout, each of them by the operator itself."""
    predict, label, dout = ctx.saved_tensors
    to_predict, to_label, to_dout = None, None, None
    if ctx.needs_input_grad[0] or ctx.needs_input_grad[1]:
        # ((grad - 0) * c) * dout
        to_predict = mse_loss_grad(grad, torch.zeros_like(grad), dout, ctx.reduction)
        to_label = -to_predict
    if ctx.needs_input_grad[2]:
        # ((predict - label) * c) * grad, added up if dout is one element for all of them
        to_dout = mse_loss_grad(predict, label, grad, ctx.reduction)
        if to_dout.shape != dout.shape:
            to_dout = to_dout.sum().reshape(dout.shape)
    return to_predict, to_label, to_dout, None


def _checked(predict: Any, label: Any, dout: Any, reduction: str) -> tuple[DType, Reduction, bool]:
    """Returns the dtype, the reduction and whether dout is one element; raises ContractError, a ValueError."""
    parsed = Reduction.parse(reduction)
    dtype = _dtype_of("predict", predict)
    for name, tensor in (("label", label), ("dout", dout)):
        check_same_dtype(dtype, _dtype_of(name, tensor), field=name)
        if tensor.device != predict.device:
            raise ContractError(
                Reason.SHAPE_INVALID,
                name,
                f"{name} is on {tensor.device}, predict on {predict.device}; move one of them",
            )
    if predict.dim() > MAX_RANK:
        raise ContractError(
            Reason.RANK_TOO_HIGH, "predict", f"predict has {predict.dim()} dimensions; at most {MAX_RANK} are allowed"
        )
    check_same_shape(predict.shape, label.shape)
    return dtype, parsed, check_dout_shape(predict.shape, dout.shape)


def _dtype_of(name: str, tensor: Any) -> DType:
    dtype = _DTYPES.get(tensor.dtype)
    if dtype is None:
        allowed = ", ".join(str(allowed) for allowed in _DTYPES)
        raise ContractError(Reason.DTYPE_UNKNOWN, name, f"{name} has dtype {tensor.dtype}; it must be one of {allowed}")
    return dtype
