"""Canary check of the first elements of a block."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from mse_grad import formula
from mse_grad.tensor import FLOAT32, Array, DType, Reduction
from mse_grad_server.backends.ascend.acl.error_codes import WrongGradient
from mse_grad_server.backends.ascend.device.blocks import DTYPES, Layout, cut
from mse_grad_server.backends.ascend.device.canary import CANARY, require_gradient
from mse_grad_server.backends.base import GradientSpec
from support.npu.backend import operands

ELEMENTS = 100

by_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.name)


class Block:
    """A block with operands and gradient as the device returned them, at first the correct gradient."""

    def __init__(self, dtype: DType, *, scalar_dout: bool = False, elements: int = ELEMENTS) -> None:
        self.spec = GradientSpec(dtype, Reduction.MEAN, 3 * elements, scalar_dout)
        ((_, self.key),) = cut(self.spec, elements, 1 << 13)
        self.layout = Layout.of(self.key)
        self.memory = np.zeros(Layout.slot_bytes(1 << 13), np.uint8)
        self.predict, self.label, self.dout = operands(self.spec, elements)
        self.place(0, self.predict)
        self.place(self.layout.label, self.label)
        self.place(self.layout.dout, self.dout)
        self.y = np.empty_like(self.predict)
        self.compute()

    def compute(self) -> None:
        c = formula.coefficient(self.spec.reduction, self.spec.numel, self.spec.dtype)
        formula.gradient_into(self.y, self.predict, self.label, self.dout, c=c, dtype=self.spec.dtype)
        self.place(self.layout.y, self.y)

    def place(self, offset: int, values: Array) -> None:
        self.memory[offset : offset + values.nbytes] = values.view(np.uint8)

    def look(self, *, keeps_subnormals: bool = False, sample: int | None = None) -> None:
        require_gradient(self.key, self.layout, self.memory, keeps_subnormals=keeps_subnormals, sample=sample)


@by_dtype
@pytest.mark.parametrize("scalar_dout", [False, True], ids=["full", "scalar"])
@pytest.mark.parametrize("elements", [1, 7, ELEMENTS])
def test_a_right_gradient_passes(dtype: DType, scalar_dout: bool, elements: int) -> None:
    block = Block(dtype, scalar_dout=scalar_dout, elements=elements)
    block.look()
    for sample in (0, 1, ELEMENTS - 1, 10**9):
        block.look(sample=sample)


@by_dtype
@pytest.mark.parametrize("byte", [CANARY, 0])
def test_an_unwritten_gradient_and_one_of_zeros_are_found(dtype: DType, byte: int) -> None:
    block = Block(dtype)
    block.memory[block.layout.y : block.layout.y + block.layout.operand_bytes] = byte
    with pytest.raises(WrongGradient, match=f"did not compute a block of {ELEMENTS} elements, {dtype.name}"):
        block.look()


@by_dtype
@pytest.mark.parametrize("scalar_dout", [False, True], ids=["full", "scalar"])
def test_a_gradient_of_other_operands_is_found(dtype: DType, scalar_dout: bool) -> None:
    block = Block(dtype, scalar_dout=scalar_dout)
    block.place(0, block.predict + block.predict.dtype.type(3))
    with pytest.raises(WrongGradient):
        block.look()


@by_dtype
@pytest.mark.parametrize("elements", [2, 3, 37, ELEMENTS])
@pytest.mark.parametrize("half", ["first", "last"])
def test_half_of_a_gradient_is_found(dtype: DType, half: str, elements: int) -> None:
    block = Block(dtype, elements=elements)
    right = block.y.copy()
    old = right + right.dtype.type(1)  # as another block left it
    middle = elements // 2 if half == "first" else -(-elements // 2)
    block.y[:middle] = (right if half == "first" else old)[:middle]
    block.y[middle:] = (old if half == "first" else right)[middle:]
    block.place(block.layout.y, block.y)
    with pytest.raises(WrongGradient, match="from element 0," if half == "last" else r"from element [1-9]"):
        block.look()


@by_dtype
@pytest.mark.parametrize("coincidence", [[99], [98, 99], [70], [80, 97]])
def test_half_of_a_gradient_is_found_although_elements_of_the_other_half_are_right_by_chance(
    dtype: DType, coincidence: list[int]
) -> None:
    block = Block(dtype)
    right = block.y.copy()
    block.y[50:] += block.y.dtype.type(1)
    block.y[coincidence] = right[coincidence]
    block.place(block.layout.y, block.y)
    with pytest.raises(WrongGradient, match=r"from element [5-9]\d,"):
        block.look()


@by_dtype
def test_elements_in_the_middle_are_found_if_they_are_sampled(dtype: DType) -> None:
    block = Block(dtype)
    block.y[33:67] += block.y.dtype.type(1)
    block.place(block.layout.y, block.y)
    block.look()
    block.look(sample=0)
    with pytest.raises(WrongGradient, match="from element 34,"):
        block.look(sample=34)


@by_dtype
def test_one_wrong_element_is_not_looked_for(dtype: DType) -> None:
    block = Block(dtype)
    block.y[0] += block.y.dtype.type(1)
    block.place(block.layout.y, block.y)
    block.look()


@by_dtype
def test_a_correct_gradient_of_zeros_passes(dtype: DType) -> None:
    block = Block(dtype)
    block.label = block.predict
    block.place(block.layout.label, block.label)
    block.compute()
    block.look()


@by_dtype
@pytest.mark.parametrize("value", [np.inf, np.nan])
def test_an_element_that_a_chip_may_saturate_is_no_witness(dtype: DType, value: float) -> None:
    block = Block(dtype)
    block.place(0, np.full_like(block.predict, value))
    block.memory[block.layout.y : block.layout.y + block.layout.operand_bytes] = 0
    block.look()


@pytest.mark.parametrize("small", ["predict", "dout"])
def test_an_element_that_a_chip_may_flush_is_no_witness(small: str) -> None:
    block = Block(FLOAT32)
    least = np.float32(2.0**-140)
    block.label[:], block.predict[:], block.dout[:] = 0, (least if small == "predict" else 2.0**30), 2.0**30
    if small == "dout":
        block.dout[:] = least
    for offset, values in ((0, block.predict), (block.layout.label, block.label), (block.layout.dout, block.dout)):
        block.place(offset, values)
    block.compute()
    assert (np.abs(block.y) >= np.finfo(np.float32).smallest_normal).all()
    block.memory[block.layout.y : block.layout.y + block.layout.operand_bytes] = 0
    block.look()


@by_dtype
@pytest.mark.parametrize("byte", [CANARY, 0])
def test_a_gradient_of_subnormal_numbers_is_compared_if_the_chip_keeps_them(dtype: DType, byte: int) -> None:
    block = Block(dtype)
    block.dout[:] = 8 * float(ml_dtypes.finfo(dtype.numpy).smallest_normal)  # type: ignore[no-untyped-call]
    block.place(block.layout.dout, block.dout)
    block.compute()
    assert (np.abs(block.y.astype(np.float64)) < float(ml_dtypes.finfo(dtype.numpy).smallest_normal)).all()  # type: ignore[no-untyped-call]
    block.look(keeps_subnormals=True)
    block.memory[block.layout.y : block.layout.y + block.layout.operand_bytes] = byte
    if not byte:
        block.look(keeps_subnormals=False)  # as a chip that flushes computes it
    with pytest.raises(WrongGradient):
        block.look(keeps_subnormals=True)
