"""Every variant: it gives the bits of the formula, wherever the operands lie, and writes nothing else."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from mse_grad.tensor import BFLOAT16, DTYPES, FLOAT16, Array, DType
from mse_grad_kernel.native import NativeKernel
from support.numerics.kernel_operands import GuardedArray, assert_same_bits, formula_gradient, kernel_operands

C = 2 / 3  # a coefficient that no dtype can represent
FUSED_LOOP = Path(__file__).resolve().parents[2] / "kernel" / "cpu" / "fused_loop.h"

every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.name)


def check(
    native: NativeKernel,
    variant: str,
    dtype: DType,
    operands: tuple[Array, Array, Array],
    *,
    scalar_dout: bool = False,
    misalignments: tuple[int, int, int, int] = (0, 0, 0, 0),
) -> None:
    predict, label, dout = operands
    if scalar_dout:
        dout = dout[-1:]
    x, t, g, y = (
        GuardedArray(operand.size, dtype, misalignment=shift)
        for operand, shift in zip((predict, label, dout, predict), misalignments, strict=True)
    )
    x.array[...], t.array[...], g.array[...] = predict, label, dout
    native.compute(variant, dtype, x.array, t.array, g.array, y.array, c=C, scalar_dout=scalar_dout)
    assert_same_bits(y.array, formula_gradient(predict, label, dout, c=C, dtype=dtype))
    y.assert_intact()


@every_dtype
@pytest.mark.parametrize("scalar_dout", [False, True], ids=["full", "scalar"])
def test_every_length_around_the_vector_widths_gives_the_bits_of_the_formula(
    native: NativeKernel, variant: str, dtype: DType, scalar_dout: bool
) -> None:
    for count in (*range(1, 131), 255, 256, 257, 511, 512, 513, 4095, 4096, 4097):
        for operands in kernel_operands(count, dtype):
            check(native, variant, dtype, operands, scalar_dout=scalar_dout)


@every_dtype
@pytest.mark.parametrize("scalar_dout", [False, True], ids=["full", "scalar"])
def test_operands_at_any_byte_address_give_the_bits_of_the_formula(
    native: NativeKernel, variant: str, dtype: DType, scalar_dout: bool
) -> None:
    for count in (1, 33, 300):
        operands = next(kernel_operands(count, dtype))
        for shift in range(64):
            misalignments = (shift, (shift * 7) % 64, (shift * 13 + 1) % 64, (shift * 29 + 3) % 64)
            check(native, variant, dtype, operands, scalar_dout=scalar_dout, misalignments=misalignments)


@every_dtype
@pytest.mark.parametrize("scalar_dout", [False, True], ids=["full", "scalar"])
def test_lengths_around_the_threshold_of_streamed_stores_give_the_bits_of_the_formula(
    native: NativeKernel, variant: str, dtype: DType, scalar_dout: bool
) -> None:
    threshold = stream_from_bytes() // dtype.itemsize_bytes
    rng = np.random.default_rng(1)
    predict, label, dout = (rng.standard_normal(threshold + 65).astype(dtype.numpy) for _ in range(3))
    # One y starts at a multiple of the item size but not of the vector; another can take no streamed store.
    for count, misalignment in ((-1, 0), (0, 0), (1, 0), (65, 64 - dtype.itemsize_bytes), (33, 8), (65, 1)):
        part = slice(threshold + count)
        operands = (predict[part], label[part], dout[part])
        check(native, variant, dtype, operands, scalar_dout=scalar_dout, misalignments=(0, 1, 2, misalignment))


def stream_from_bytes() -> int:
    found = re.search(r"kStreamFromBytes = int64_t\{(\d+)\} << (\d+);", FUSED_LOOP.read_text())
    assert found is not None
    return int(found[1]) << int(found[2])


@pytest.mark.parametrize("dtype", [FLOAT16, BFLOAT16], ids=lambda dtype: dtype.name)
def test_every_value_of_16_bits_gives_the_bits_of_the_formula_in_every_place(
    native: NativeKernel, variant: str, dtype: DType
) -> None:
    every = np.arange(1 << 16, dtype=np.uint16).view(dtype.numpy)
    for other in (0.0, -0.0, 1.0, -3.0, float(every[1]), np.inf, np.nan):
        others = np.full(every.size, other).astype(dtype.numpy)
        for operands in ((every, others, others), (others, every, others), (others, others, every)):
            check(native, variant, dtype, operands)
    check(native, variant, dtype, (every, np.roll(every, 12345), np.roll(every, -4321)))


@every_dtype
def test_a_scalar_dout_gives_the_bits_of_a_full_one(native: NativeKernel, variant: str, dtype: DType) -> None:
    for predict, label, dout in kernel_operands(1000, dtype):
        full, scalar = np.empty_like(predict), np.empty_like(predict)
        native.compute(variant, dtype, predict, label, np.repeat(dout[:1], 1000), full, c=C, scalar_dout=False)
        native.compute(variant, dtype, predict, label, dout[:1], scalar, c=C, scalar_dout=True)
        assert_same_bits(scalar, full)


@every_dtype
def test_no_elements_write_nothing(native: NativeKernel, variant: str, dtype: DType) -> None:
    y = GuardedArray(0, dtype)
    empty = np.empty(0, dtype.numpy)
    native.compute(variant, dtype, empty, empty, empty, y.array, c=C, scalar_dout=False)
    y.assert_intact()
