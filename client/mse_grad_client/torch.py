"""PyTorch tensors as operands: those of the CPU where they lie, those of an NPU through pinned memory of the host.

Nothing here imports torch: whoever has tensors has done so.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from mse_grad.reasons import Reason
from mse_grad.tensor import BFLOAT16, DTYPES, Array
from mse_grad_client.errors import InvalidArgument

__all__ = ["are_tensors", "array_of", "compute_tensors", "tensor_of"]

_DTYPES = {f"torch.{dtype.name}": dtype for dtype in DTYPES}
_NAMES = ", ".join(_DTYPES)


def are_tensors(*operands: object) -> bool:
    """Returns whether one of `operands` is a tensor of PyTorch."""
    tensor = getattr(sys.modules.get("torch"), "Tensor", ())
    return any(isinstance(operand, tensor) for operand in operands)


def compute_tensors(compute: Callable[..., None], predict: Any, label: Any, dout: Any, out: Any) -> Any:
    """Returns the gradient as a tensor on the device of predict, detached.

    Args:
        compute: Fills `out`, an array, from the arrays predict, label and dout; dout may be a number.
        predict: A tensor of the CPU or of an NPU, of any strides.
        label: Likewise, on the same device.
        dout: Likewise, or a tensor of the CPU, an array or a number.
        out: Where the gradient goes: a tensor with device, dtype and shape of predict; None for a new one.

    Raises:
        InvalidArgument: Something is no tensor, or of a dtype, layout or device that is not taken.
    """
    torch = sys.modules["torch"]
    for name, operand in (("predict", predict), ("label", label), ("out", predict if out is None else out)):
        if not are_tensors(operand):
            raise InvalidArgument(f"{name} is a {type(operand).__name__}; with torch tensors it must be one as well")
        if operand.device != predict.device:
            raise InvalidArgument(f"{name} is on {operand.device}, predict on {predict.device}; move one of them")
    given = {"predict": predict.detach(), "label": label.detach(), "dout": dout}
    if are_tensors(dout):
        given["dout"] = dout.detach()
        if dout.device.type != "cpu" and dout.device != predict.device:
            raise InvalidArgument(f"dout is on {dout.device}, predict on {predict.device}; move one of them")
    for name, operand in given.items():
        if are_tensors(operand):
            _check_kind(name, operand)
    host = _on_host(torch, list(given.values()))
    if predict.device.type == "cpu":
        y = torch.empty(predict.shape, dtype=predict.dtype) if out is None else out
        compute(*host, out=array_of(y.detach()))
        return y
    pinned = torch.empty(predict.shape, dtype=predict.dtype, pin_memory=True)
    compute(*host, out=array_of(pinned))
    y = torch.empty(predict.shape, dtype=predict.dtype, device=predict.device) if out is None else out
    y.detach().copy_(pinned)  # waits, so that the pinned memory may be used again
    return y


def array_of(tensor: Any) -> Array:
    """Returns the array that shares the memory of a detached tensor of the CPU."""
    if _DTYPES[str(tensor.dtype)] is not BFLOAT16:
        shared: Array = tensor.numpy()
        return shared
    bits: Array = tensor.view(sys.modules["torch"].int16).numpy()
    return bits.view(BFLOAT16.numpy)


def tensor_of(array: Array) -> Any:
    """Returns a tensor of the CPU with a copy of the array, in C order; torch must be imported."""
    torch: Any = sys.modules["torch"]
    copied = np.array(array, order="C")
    if copied.dtype != BFLOAT16.numpy:
        return torch.from_numpy(copied)
    return torch.from_numpy(copied.view(np.int16)).view(torch.bfloat16)


def _check_kind(name: str, tensor: Any) -> None:
    if str(tensor.dtype) not in _DTYPES:
        text = f"{name} has dtype {tensor.dtype}; it must be one of {_NAMES}"
        raise InvalidArgument(text, reason=Reason.DTYPE_UNKNOWN)
    if str(tensor.layout) != "torch.strided":
        raise InvalidArgument(f"{name} has layout {tensor.layout}; it must be dense: call to_dense()")
    if tensor.device.type not in ("cpu", "npu"):
        raise InvalidArgument(f"{name} is on {tensor.device}; it must be on the CPU or an NPU: call cpu()")


def _on_host(torch: Any, operands: Sequence[Any]) -> list[Any]:
    """Returns arrays of the operands that are tensors, and the others as they are."""
    devices = {operand.device for operand in operands if are_tensors(operand) and operand.device.type == "npu"}
    host = [_to_host(torch, operand) if are_tensors(operand) else operand for operand in operands]
    for device in devices:
        torch.npu.current_stream(device).synchronize()
    return [array_of(operand) if are_tensors(operand) else operand for operand in host]


def _to_host(torch: Any, tensor: Any) -> Any:
    if tensor.device.type == "cpu":
        return tensor
    # In the order of the NPU's own stream, behind what computes the tensor; all operands wait once, together.
    pinned = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    return pinned.copy_(tensor, non_blocking=True)
