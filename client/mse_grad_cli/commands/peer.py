"""PyTorch's own gradient on the CPU or on an NPU, the peer of `mse-grad verify --against`."""

from __future__ import annotations

import importlib
from typing import Any

import click
import numpy as np

from mse_grad.tensor import BFLOAT16, FLOAT16, FLOAT32, FLOAT64, Array, DType, Reduction
from mse_grad_cli.conformance import Compute, Dout
from mse_grad_client.pytorch import array_of, tensor_of

__all__ = ["PEERS", "peer_compute", "peer_dtypes"]

PEERS = ("torch_npu", "torch")
_ADVICE = {
    "torch_npu": "it needs a host with an NPU, CANN and pip install 'mse-grad[npu]'",
    "torch": "pip install torch",
}


def peer_dtypes(name: str) -> tuple[DType, ...]:
    """Returns the element types that the peer computes."""
    return (FLOAT32, FLOAT16, BFLOAT16) if name == "torch_npu" else (FLOAT32, FLOAT16, BFLOAT16, FLOAT64)


def peer_compute(name: str) -> Compute:
    """Returns the gradient of a peer, one of `PEERS`; raises click.BadParameter if it is not available here."""
    try:
        torch: Any = importlib.import_module("torch")
        if name == "torch_npu":
            importlib.import_module("torch_npu")
    except ImportError as missing:
        raise click.BadParameter(f"{missing}; {_ADVICE[name]}", param_hint="--against") from missing
    if name == "torch_npu" and not torch.npu.is_available():
        raise click.BadParameter("torch_npu finds no NPU; mse-grad-server doctor shows why", param_hint="--against")
    device = "npu" if name == "torch_npu" else "cpu"

    def compute(predict: Array, label: Array, dout: Dout, reduction: str) -> Array:
        given = np.asarray(dout, predict.dtype)
        full = given if given.shape == predict.shape else np.full(predict.shape, given.reshape(()))
        x, t, g = (tensor_of(operand).to(device) for operand in (predict, label, full))
        number = {Reduction.NONE: 0, Reduction.MEAN: 1, Reduction.SUM: 2}[Reduction.parse(reduction)]
        return array_of(torch.ops.aten.mse_loss_backward(g, x, t, number).contiguous().cpu())

    return compute
