"""PyTorch's mean squared error with gradients from a server; importing this module imports torch.

Users import it as `mse_grad_client.pytorch`.
"""

from __future__ import annotations

import warnings
from typing import Any, Protocol

import torch

from mse_grad.rules import MAX_RANK
from mse_grad_client.errors import Unimplemented
from mse_grad_client.pytorch import check_kind, check_not_traced

__all__ = ["MSELoss", "mse_loss"]


class Computes(Protocol):
    """A client, as the loss sees it: `MseGradClient`."""

    def compute(self, predict: Any, label: Any, dout: Any, reduction: str) -> Any:
        """Returns the gradient of tensors as a detached tensor."""


def mse_loss(input: Any, target: Any, reduction: str = "mean", *, client: Computes) -> Any:
    """Returns the mean squared error, as `torch.nn.functional.mse_loss`; the server computes its gradients.

    PyTorch computes the loss where the tensors are. `backward()` sends both tensors to the server, once for both
    gradients. In float32 and float64 loss and gradients have PyTorch's bits; in float16 and bfloat16 the gradients are
    those of docs/numerics.md, which round once instead of several times. Without a gradient to compute (`no_grad`, or
    if neither tensor requires grad) nothing is sent.

    Args:
        input: Prediction, of any shape; floating point, on the CPU or (not yet run on a device) an NPU.
        target: Target; broadcast with `input`, with PyTorch's warning if their shapes differ. Another dtype is promoted
            as PyTorch promotes it, and under `torch.autocast` both become float32.
        reduction: "none", "mean" or "sum".
        client: Client that computes the gradients; must be open when `backward()` runs.

    Returns:
        The loss: of the broadcast shape for "none", otherwise of rank 0.

    Raises:
        ValueError: `reduction` is unknown, or the client cannot compute such a tensor (`InvalidArgument`).
        RuntimeError: PyTorch cannot compute the loss, for example because the shapes do not broadcast.

    `backward()` raises what `MseGradClient.compute` raises. A second derivative raises `Unimplemented`. Under
    `torch.compile` the loss is a graph break. Thread-safe, as PyTorch's own loss.
    """
    if torch.compiler.is_compiling():
        return torch.compiler.disable(_loss)(input, target, reduction, client)
    return _loss(input, target, reduction, client)


class MSELoss(torch.nn.Module):  # type: ignore[misc]  # Any without PyTorch's types
    """The mean squared error as a module, as `torch.nn.MSELoss`; the server computes its gradients.

    Example:
        loss = MSELoss(client=client)
        loss(model(x), target).backward()

    It has no parameters and nothing in its `state_dict`. A copy or pickle of it holds a copy of the client.

    Args:
        reduction: "none", "mean" or "sum".
        client: Client that computes the gradients.
    """

    def __init__(self, reduction: str = "mean", *, client: Computes) -> None:
        super().__init__()
        self.reduction = reduction
        self.client = client

    def forward(self, input: Any, target: Any) -> Any:
        """Returns the loss; see `mse_loss`."""
        return mse_loss(input, target, self.reduction, client=self.client)

    def extra_repr(self) -> str:
        """Returns the arguments, for `repr`."""
        return f"reduction={self.reduction!r}, client={self.client!r}"


def _loss(input: Any, target: Any, reduction: str, client: Computes) -> Any:
    needs_gradient = torch.is_grad_enabled() and (input.requires_grad or target.requires_grad)
    if needs_gradient:
        check_not_traced(torch)
        check_kind(torch, "input", input)
        check_kind(torch, "target", target)
    if target.size() != input.size():
        # PyTorch's own words, so that a filter for its warning applies here too.
        warnings.warn(
            f"Using a target size ({target.size()}) that is different to the input size ({input.size()}). "
            "This will likely lead to incorrect results due to broadcasting. "
            "Please ensure they have the same size.",
            stacklevel=3,
        )
    input, target = torch.broadcast_tensors(input, target)
    if not needs_gradient:
        return torch.nn.functional.mse_loss(input, target, reduction=reduction)
    return _Loss.apply(input, target, reduction, client)


class _Loss(torch.autograd.Function):  # type: ignore[misc]
    """The loss of two tensors of one shape."""

    @staticmethod
    def forward(ctx: Any, input: Any, target: Any, reduction: str, client: Computes) -> Any:
        ctx.save_for_backward(input, target)
        ctx.reduction, ctx.client = reduction, client
        return torch.nn.functional.mse_loss(input, target, reduction=reduction)

    @staticmethod
    def backward(ctx: Any, dout: Any) -> tuple[Any, Any, None, None]:
        # The dtype of the loss, which promotion or autocast chose. Autograd rounds the gradients to their own dtypes.
        input, target = (saved.to(dout.dtype) for saved in ctx.saved_tensors)
        gradient = _Gradient.apply(input, target, dout, ctx.reduction, ctx.client)
        to_target = None
        if ctx.needs_input_grad[1]:
            # PyTorch computes ((target - input) * c) * dout. That is the negative, except for the sign of the zero that
            # remains of two equal values: x - x is +0 in either order. Zeros of two signs are not equal in this sense.
            is_same = (input == target) & (torch.signbit(input) == torch.signbit(target))
            to_target = torch.where(is_same, gradient, -gradient)
        return gradient if ctx.needs_input_grad[0] else None, to_target, None, None


class _Gradient(torch.autograd.Function):  # type: ignore[misc]
    """The gradient with respect to the input, which has no derivative of its own."""

    @staticmethod
    def forward(ctx: Any, input: Any, target: Any, dout: Any, reduction: str, client: Computes) -> Any:
        if input.dim() <= MAX_RANK:
            return client.compute(input, target, dout, reduction)
        dout = dout if dout.dim() == 0 else dout.flatten()
        return client.compute(input.flatten(), target.flatten(), dout, reduction).reshape(input.shape)

    @staticmethod
    def backward(ctx: Any, *_: Any) -> Any:
        raise Unimplemented(
            "the loss of mse_grad_client.pytorch has no second derivative; use torch.nn.functional.mse_loss for a loss "
            "that is differentiated twice"
        )
