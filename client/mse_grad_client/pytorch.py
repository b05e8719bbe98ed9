"""PyTorch tensors as operands: CPU tensors in place, NPU tensors through pinned host memory.

`mse_loss` and `MSELoss` are PyTorch's loss with gradients from a server. The first use of their names imports torch.
Nothing else here does: a caller that has tensors has imported it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np

from mse_grad.reasons import Reason
from mse_grad.tensor import BFLOAT16, DTYPES, Array
from mse_grad_client.errors import InvalidArgument
from mse_grad_client.kinds import are_tensors

if TYPE_CHECKING:
    from mse_grad_client.loss import MSELoss, mse_loss

__all__ = [
    "MSELoss",
    "array_of",
    "check_kind",
    "check_not_traced",
    "compute_tensors",
    "mse_loss",
    "tensor_of",
]

_DTYPES = {f"torch.{dtype.name}": dtype for dtype in DTYPES}
_NAMES = ", ".join(_DTYPES)


def __getattr__(name: str) -> Any:
    if name not in ("MSELoss", "mse_loss"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("mse_grad_client.loss"), name)


def compute_tensors(compute: Callable[..., object], predict: Any, label: Any, dout: Any, out: Any) -> Any:
    """Returns the gradient as a detached tensor on predict's device.

    Args:
        compute: Fills `out`, an array, from the arrays predict, label and dout, its first argument; dout may be a
            number.
        predict: A tensor on the CPU or an NPU, of any strides.
        label: A tensor on the same device.
        dout: A tensor on the same device or the CPU, an array or a number.
        out: A tensor for the gradient, with device, dtype and shape of predict; None for a new one. Autograd learns of
            the write, as for PyTorch's own `out=`.

    Raises:
        InvalidArgument: An argument is no tensor, or has an unsupported kind, dtype, layout or device.
    """
    torch = sys.modules["torch"]
    check_not_traced(torch)
    for name, operand in (("predict", predict), ("label", label), ("out", predict if out is None else out)):
        if not are_tensors(operand):
            raise InvalidArgument(f"{name} is a {type(operand).__name__}; with torch tensors it must be one as well")
        check_kind(torch, name, operand)
        _check_dtype(name, operand)
        if operand.device != predict.device:
            raise InvalidArgument(f"{name} is on {operand.device}, predict on {predict.device}; move one of them")
    given = {"predict": predict, "label": label, "dout": dout}
    if are_tensors(dout):
        check_kind(torch, "dout", dout)
        _check_dtype("dout", dout)
        if dout.device.type != "cpu" and dout.device != predict.device:
            raise InvalidArgument(f"dout is on {dout.device}, predict on {predict.device}; move one of them")
    if out is not None:
        _check_writable(torch, out)
    host = _on_host(torch, given)
    is_near = predict.device.type == "cpu"
    if is_near and (out is None or not out.is_neg()):
        y = torch.empty(predict.shape, dtype=predict.dtype, device="cpu") if out is None else out
        with _readable("out"):
            array = array_of(y.detach())
        with _noted_by_autograd(y):
            compute(host, out=array)
        return y
    # NPU memory, or elements whose sign flips when they are read: neither can be written in place.
    staging = torch.empty(predict.shape, dtype=predict.dtype, device="cpu", pin_memory=not is_near)
    compute(host, out=array_of(staging))
    y = torch.empty(predict.shape, dtype=predict.dtype, device=predict.device) if out is None else out
    y.detach().copy_(staging)  # blocks, so that the pinned memory may be reused
    return y


def array_of(tensor: Any) -> Array:
    """Returns an array that shares the memory of a detached CPU tensor."""
    if _DTYPES[str(tensor.dtype)] is not BFLOAT16:
        shared: Array = tensor.numpy()
        return shared
    bits: Array = tensor.view(sys.modules["torch"].int16).numpy()
    return bits.view(BFLOAT16.numpy)


def tensor_of(array: Array) -> Any:
    """Returns a CPU tensor with a copy of the array, in C order; torch must be imported."""
    torch: Any = sys.modules["torch"]
    copied = np.array(array, order="C")
    if copied.dtype != BFLOAT16.numpy:
        return torch.from_numpy(copied)
    return torch.from_numpy(copied.view(np.int16)).view(torch.bfloat16)


def check_not_traced(torch: Any) -> None:
    """Raises InvalidArgument under `torch.jit.trace`, whose trace would return uninitialized memory."""
    if torch.jit.is_tracing():
        raise _refused("torch.jit.trace records no gradients of a server; compute them outside of the traced function")


def check_kind(torch: Any, name: str, tensor: Any) -> None:
    """Raises InvalidArgument unless the elements of `tensor`, whatever their dtype, can be read and mean themselves."""
    if type(tensor) is not torch.Tensor and _computes_its_own_way(torch, type(tensor)):
        raise _refused(
            f"{name} is a {type(tensor).__name__}, which has its own arithmetic; pass a plain tensor, as "
            "as_subclass(torch.Tensor) returns it for some kinds"
        )
    if torch._is_functional_tensor(tensor):
        raise _refused(f"the memory of {name} cannot be read, as under torch.func.functionalize")
    if tensor.is_nested:
        raise _refused(
            f"{name} is a nested tensor; it must have one shape: call to_padded_tensor(), or pass one by one"
        )
    if str(tensor.layout) != "torch.strided":
        raise _refused(f"{name} has layout {tensor.layout}; it must be dense: call to_dense()")
    if tensor.device.type not in ("cpu", "npu"):
        raise _refused(f"{name} is on {tensor.device}; it must be on the CPU or an NPU: call cpu()")


def _check_dtype(name: str, tensor: Any) -> None:
    if str(tensor.dtype) not in _DTYPES:
        text = f"{name} has dtype {tensor.dtype}; it must be one of {_NAMES}"
        raise InvalidArgument(text, reason=Reason.DTYPE_UNKNOWN)


def _computes_its_own_way(torch: Any, kind: Any) -> bool:
    plain = (torch.Tensor, torch.nn.Parameter)
    return kind.__torch_dispatch__ is not torch.Tensor.__torch_dispatch__ or not any(
        _function(kind.__torch_function__) is _function(other.__torch_function__) for other in plain
    )


def _function(method: Any) -> Any:
    return getattr(method, "__func__", method)


def _check_writable(torch: Any, out: Any) -> None:
    """Raises InvalidArgument if PyTorch's own `out=` would not write to `out` either."""
    if out.requires_grad and torch.is_grad_enabled():
        raise _refused_out(
            "out requires grad, so it cannot be written in place; compute under torch.no_grad(), or pass another out"
        )
    if out.is_inference() and not torch.is_inference_mode_enabled():
        raise _refused_out("out is an inference tensor; compute under torch.inference_mode(), or pass out.clone()")
    if out._is_zerotensor():
        raise _refused_out("out is a tensor of zeros without memory; pass out.clone()")
    if any(not stride and extent > 1 for stride, extent in zip(out.stride(), out.shape, strict=True)):
        raise _refused_out("several elements of out share memory; pass out.clone()")


@contextmanager
def _noted_by_autograd(out: Any) -> Iterator[None]:
    """Tells autograd that the body has written to `out`, unless the request was refused before any write."""
    is_refused = False
    try:
        yield
    except InvalidArgument:
        is_refused = True
        raise
    finally:
        if not is_refused:
            # An in-place operation on no elements: autograd counts it, and knows that its saved tensors are outdated.
            out.detach().as_strided((0,), (1,)).zero_()


@contextmanager
def _readable(name: str) -> Iterator[None]:
    try:
        yield
    except (RuntimeError, TypeError, AssertionError) as cause:  # for a tensor without readable memory
        raise _refused(f"the memory of {name} cannot be read, as under torch.func or a fake mode: {cause}") from cause


def _on_host(torch: Any, operands: Mapping[str, Any]) -> list[Any]:
    """Returns arrays of the tensors among the operands, and the other operands unchanged."""
    devices = {operand.device for operand in operands.values() if are_tensors(operand) and operand.device.type == "npu"}
    host = {}
    for name, operand in operands.items():
        with _readable(name):
            host[name] = _to_host(torch, operand) if are_tensors(operand) else operand
    for device in devices:
        torch.npu.current_stream(device).synchronize()
    arrays = []
    for name, operand in host.items():
        with _readable(name):
            arrays.append(array_of(operand) if are_tensors(operand) else operand)
    return arrays


def _to_host(torch: Any, tensor: Any) -> Any:
    detached = tensor.detach()
    if tensor.device.type == "cpu":
        return detached.clone() if detached._is_zerotensor() else detached.resolve_neg()
    # Ordered on the NPU's stream behind the computation of the tensor; one wait covers all operands.
    pinned = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu", pin_memory=True)
    return pinned.copy_(detached, non_blocking=True)


def _refused(message: str) -> InvalidArgument:
    return InvalidArgument(message, reason=Reason.OPERAND_UNSUPPORTED)


def _refused_out(message: str) -> InvalidArgument:
    return InvalidArgument(message, reason=Reason.OUT_NOT_WRITABLE)
