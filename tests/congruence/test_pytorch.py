"""PyTorch's gradient: in float32 it has the same bits; where it differs in 16 bits, the contract states how."""

from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np
import pytest

from mse_grad.tensor import BFLOAT16, FLOAT16, FLOAT32, FLOAT64, Array, DType
from mse_grad_cli.conformance import Case, Dout, cases, edges, make_case, same_bits, ulp_distance
from support.numerics.compute import formula_compute
from support.tools import require_module

torch: Any = importlib.import_module("torch") if importlib.util.find_spec("torch") else None
pytestmark = pytest.mark.slow

REDUCTIONS = {"none": 0, "mean": 1, "sum": 2}
# The rows of the table of edges in docs/numerics.md whose last column differs.
OURS_ALONE = {"120 000 between", "80 000 between"}


@pytest.fixture(autouse=True)
def pytorch() -> None:
    require_module("torch")


def pytorch_compute(predict: Array, label: Array, dout: Dout, reduction: str) -> Array:
    """`torch.ops.aten.mse_loss_backward`, which with mean and sum accepts a scalar dout like a full one."""
    x, t = tensor(predict), tensor(label)
    g = tensor(np.asarray(dout, predict.dtype))
    g = g if g.shape == x.shape else g.reshape(())
    y: Array = torch.ops.aten.mse_loss_backward(g, x, t, REDUCTIONS[reduction]).contiguous()
    return numpy(y, predict.dtype)


def tensor(values: Array) -> Any:
    contiguous = np.array(values, order="C")
    if contiguous.dtype == BFLOAT16.numpy:
        return torch.from_numpy(contiguous.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(contiguous)


def numpy(values: Any, dtype: Any) -> Array:
    if dtype == BFLOAT16.numpy:
        return np.asarray(values.view(torch.int16).numpy()).view(dtype)
    return np.asarray(values.numpy())


def judged(case: Case) -> bool:
    return case.predict.size > 0  # PyTorch's c for an empty mean is 2 / 0


@pytest.mark.parametrize("dtype", [FLOAT32, FLOAT64], ids=lambda dtype: dtype.name)
def test_the_same_bits_in_every_case(dtype: DType) -> None:
    for case in filter(judged, cases(dtype, quick=True)):
        y, wanted = case.run(pytorch_compute), case.run(formula_compute)
        assert same_bits(y.reshape(-1), wanted.reshape(-1)).all(), str(case)


@pytest.mark.parametrize("dtype", [FLOAT32, FLOAT64, FLOAT16, BFLOAT16], ids=lambda dtype: dtype.name)
def test_the_same_edges_except_those_named_in_the_contract(dtype: DType) -> None:
    differing = set()
    for edge in edges(dtype):
        if not judged(edge.case):
            continue
        y = edge.case.run(pytorch_compute)
        if not same_bits(y.reshape(-1), edge.expected.reshape(-1)).all():
            differing.add(edge.case.name)
    assert differing == (OURS_ALONE if dtype is FLOAT16 else set())


@pytest.mark.parametrize("dtype", [FLOAT16, BFLOAT16], ids=lambda dtype: dtype.name)
def test_sixteen_bits_inside_are_further_from_the_golden_than_float32(dtype: DType) -> None:
    case = make_case(np.random.default_rng(3), dtype, (70_001,))
    theirs = ulp_distance(case.run(pytorch_compute), case.golden)
    ours = ulp_distance(case.run(formula_compute), case.golden)
    assert np.mean(ours == 0) > 0.995 > np.mean(theirs == 0)
    assert ours.max() <= 1 < theirs.max()
