"""The operator on CPU tensors: the bits of the contract, PyTorch's own checks of operators, and its rules."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import pytest

from mse_grad.tensor import DTYPES, FLOAT32, Array, DType
from mse_grad_cli.conformance import Dout, cases, same_bits
from mse_grad_client.pytorch import array_of, tensor_of
from support.numerics.compute import formula_compute

pytestmark = pytest.mark.slow

REDUCTIONS = ("none", "mean", "sum")


@pytest.fixture(params=[True, False], ids=["compiled kernel", "PyTorch's operations"])
def kernel(request: pytest.FixtureRequest, mse_loss_grad: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = importlib.import_module("mse_grad_torch.cpu")
    if not request.param:
        monkeypatch.setattr(cpu, "_kernel", lambda: None)
    elif cpu._kernel() is None:
        pytest.skip("this install has no compiled kernel")


@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.name)
def test_the_bits_are_those_of_the_formula_in_every_case(mse_loss_grad: Any, dtype: DType) -> None:
    def compute(predict: Array, label: Array, dout: Dout, reduction: str) -> Array:
        given = tensor_of(np.asarray(dout, predict.dtype))
        given = given if given.shape == predict.shape else given.reshape(())
        return array_of(mse_loss_grad(tensor_of(predict), tensor_of(label), given, reduction))

    for case in cases(dtype, quick=True):
        y, wanted = case.run(compute), case.run(formula_compute)
        assert same_bits(y.reshape(-1), wanted.reshape(-1)).all(), str(case)


@pytest.mark.usefixtures("kernel")
def test_any_strides_are_accepted_and_the_gradient_is_contiguous(torch: Any, mse_loss_grad: Any) -> None:
    whole = torch.randn(6, 8, 10)
    predict, label = whole.permute(2, 0, 1)[::2], whole.flip(0).permute(2, 0, 1)[1::2]
    dout = torch.randn(8).expand(5, 6, 8)
    y = mse_loss_grad(predict, label, dout, "sum")
    assert y.is_contiguous()
    assert torch.equal(y, (predict - label) * 2 * dout)


def test_a_lazily_negated_operand_is_read_with_its_sign(torch: Any, mse_loss_grad: Any) -> None:
    negated = torch.randn(7, dtype=torch.complex64).conj().imag
    assert negated.is_neg()
    zero, one = torch.zeros(7), torch.tensor(1.0)
    assert torch.equal(mse_loss_grad(negated, zero, one, "sum"), negated.resolve_neg() * 2)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_it_equals_the_gradient_of_pytorchs_own_loss(torch: Any, mse_loss_grad: Any, reduction: str) -> None:
    predict, label = torch.randn(33, 3, requires_grad=True), torch.randn(33, 3)
    loss = torch.nn.functional.mse_loss(predict, label, reduction=reduction)
    dout = torch.randn_like(loss)
    loss.backward(dout)
    assert torch.equal(mse_loss_grad(predict, label, dout, reduction), predict.grad)


@pytest.mark.parametrize("scalar_dout", [False, True], ids=["full dout", "scalar dout"])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_gradients_of_first_and_second_order_pass_gradcheck(
    torch: Any, mse_loss_grad: Any, reduction: str, scalar_dout: bool
) -> None:
    torch.manual_seed(5)
    operands = [torch.randn(3, 4, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    if scalar_dout:
        operands[2] = torch.tensor([0.75], dtype=torch.float64, requires_grad=True)

    def compute(*given: Any) -> Any:
        return mse_loss_grad(*given, reduction)

    assert torch.autograd.gradcheck(compute, operands)
    assert torch.autograd.gradgradcheck(compute, operands)


@pytest.mark.parametrize("dtype", [dtype.name for dtype in DTYPES])
@pytest.mark.parametrize("requires_grad", [False, True])
def test_opcheck_passes(torch: Any, mse_loss_grad: Any, dtype: str, requires_grad: bool) -> None:
    def tensor(*shape: int) -> Any:
        return torch.randn(shape, dtype=getattr(torch, dtype), requires_grad=requires_grad)

    for given in ((tensor(4, 5), tensor(4, 5), tensor(4, 5)), (tensor(7), tensor(7), tensor())):
        outcome = torch.library.opcheck(mse_loss_grad, given, {"reduction": "mean"})
        assert set(outcome.values()) == {"SUCCESS"}


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_torch_compile_compiles_it_without_a_graph_break(torch: Any, mse_loss_grad: Any, backend: str) -> None:
    operands = [torch.randn(9, 2, requires_grad=True) for _ in range(3)]

    def doubled(*given: Any) -> Any:
        return mse_loss_grad(*given, "sum") * 2

    compiled = torch.compile(doubled, backend=backend, fullgraph=True)
    assert torch.equal(compiled(*operands), doubled(*operands))
    got = torch.autograd.grad(compiled(*operands).sum(), operands)
    assert all(map(torch.equal, got, torch.autograd.grad(doubled(*operands).sum(), operands)))


def test_an_empty_tensor_has_an_empty_gradient(torch: Any, mse_loss_grad: Any) -> None:
    empty = torch.empty(2, 0)
    assert mse_loss_grad(empty, empty, torch.tensor(1.0)).shape == (2, 0)


def broken_rules(torch: Any) -> dict[str, tuple[tuple[Any, ...], str]]:
    x = torch.zeros(2, 3)
    return {
        "shapes": ((x, torch.zeros(3, 2), x), "they must be equal"),
        "dout": ((x, x, torch.zeros(3)), "dout must have the shape of predict or one element"),
        "dtypes": ((x, x, x.double()), "they must be equal"),
        "integers": ((x.int(), x.int(), x.int()), "it must be one of torch.float32"),
        "reduction": ((x, x, x, "average"), "it must be 'none', 'mean' or 'sum'"),
        "rank": ((x.reshape((2, 3, *[1] * 7)),) * 3, "at most 8 are allowed"),
        "devices": ((x, x.to("meta"), x), "move one of them"),
    }


@pytest.mark.parametrize("name", ["shapes", "dout", "dtypes", "integers", "reduction", "rank", "devices"])
def test_a_broken_rule_is_a_value_error_with_a_reason(torch: Any, mse_loss_grad: Any, name: str) -> None:
    given, words = broken_rules(torch)[name]
    with pytest.raises(ValueError, match=words):
        mse_loss_grad(*given)


def test_a_tensor_of_another_kind_of_device_is_refused_by_pytorch(torch: Any, mse_loss_grad: Any) -> None:
    sparse = torch.zeros(3).to_sparse()
    with pytest.raises(NotImplementedError, match="SparseCPU"):
        mse_loss_grad(sparse, sparse, sparse)


def test_the_dtype_table_is_that_of_the_contract(torch: Any) -> None:
    operator = importlib.import_module("mse_grad_torch.operator")
    assert operator._DTYPES[torch.float32] is FLOAT32
    assert tuple(operator._DTYPES.values()) == DTYPES
