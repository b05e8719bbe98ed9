"""A run of the operator on NPU tensors that prints its findings as one line of JSON.

It is a separate process, because a registered device type stays for the life of the process.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import mse_grad_torch
from mse_grad.tensor import BFLOAT16, FLOAT16, FLOAT32, FLOAT64, Reduction
from mse_grad_torch.aclnn import Aclnn
from support.npu.stand_in_torch_npu import Npu

DTYPES = (FLOAT32, FLOAT16, BFLOAT16)


def operands(shape: tuple[int, ...], dtype: Any) -> tuple[Any, Any, Any]:
    predict, label, dout = (torch.randn(shape).to(dtype) for _ in range(3))
    return predict, label, dout


def same_bits_everywhere(npu: Npu) -> list[str]:
    """Returns the cases in which the gradient on the NPU differs from that on the CPU."""
    differing = []
    for dtype in (getattr(torch, each.name) for each in DTYPES):
        for shape in ((), (1,), (0,), (33,), (7, 3, 5), (65_537,)):
            for reduction in ("none", "mean", "sum"):
                predict, label, full = operands(shape, dtype)
                for dout in (full, torch.tensor(0.75, dtype=dtype)):
                    wanted = mse_grad_torch.mse_loss_grad(predict, label, dout, reduction)
                    on_npu = [npu.tensor(each) for each in (predict, label, dout)]
                    y = mse_grad_torch.mse_loss_grad(on_npu[0], on_npu[1], on_npu[2], reduction)
                    assert str(y.device) == "npu:0"
                    if not torch.equal(npu.to_cpu(y), wanted):
                        differing.append(f"{dtype} {shape} {reduction} {tuple(dout.shape)}")
    return differing


def private_format(npu: Npu) -> bool:
    predict, label, dout = operands((5, 3), torch.float32)
    y = mse_grad_torch.mse_loss_grad(npu.tensor(predict, is_private=True), npu.tensor(label), npu.tensor(dout))
    return bool(torch.equal(npu.to_cpu(y), mse_grad_torch.mse_loss_grad(predict, label, dout)))


def gradients(npu: Npu) -> bool:
    """Returns whether autograd runs the operator on the NPU too; its own additions and negations are PyTorch's."""
    predict, label, dout = operands((11,), torch.float32)
    on_npu = [npu.tensor(each) for each in (predict, label, dout)]
    on_npu[2].requires_grad_()
    dout.requires_grad_()
    grad = torch.randn(11)
    (got,) = torch.autograd.grad(mse_grad_torch.mse_loss_grad(*on_npu), on_npu[2], npu.tensor(grad))
    (wanted,) = torch.autograd.grad(mse_grad_torch.mse_loss_grad(predict, label, dout), dout, grad)
    return bool(torch.equal(npu.to_cpu(got), wanted))


def words_of(action: Callable[[], object]) -> str:
    try:
        action()
    except (RuntimeError, ValueError) as error:
        return f"{type(error).__name__}: {error}"
    return ""


def refusals(npu: Npu) -> dict[str, str]:
    x = torch.zeros(4)
    aclnn = Aclnn.load()
    address = npu.tensor(x).data_ptr()
    tensors = [((4,), address), ((3,), address), ((4,), address), ((4,), address)]

    def plan_badly() -> None:
        with aclnn.planned(FLOAT32, Reduction.SUM, tensors, numel=4):
            pass

    return {
        "two devices": words_of(lambda: mse_grad_torch.mse_loss_grad(npu.tensor(x), x, npu.tensor(x))),
        "float64": words_of(lambda: Aclnn.check_dtype(FLOAT64)),
        "a plan that the operator refuses": words_of(plan_badly),
        "no package": words_of(lambda: Aclnn.load({})),
        "a package of another vendor": words_of(lambda: Aclnn.load({"ASCEND_CUSTOM_OPP_PATH": "/none"})),
    }


def main() -> None:
    torch.manual_seed(3)
    npu = Npu(Path(sys.argv[1]))
    npu.open()
    found = {
        "differing": same_bits_everywhere(npu),
        "private_format": private_format(npu),
        "gradients": gradients(npu),
        "refusals": refusals(npu),
        "stream_reads": npu.stream_reads,
    }
    npu.close()
    print(json.dumps(found))


if __name__ == "__main__":
    main()
