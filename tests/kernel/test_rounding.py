"""The one rounding to 16 bits: to nearest even, for every pair of neighbours of the dtype."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from mse_grad.tensor import BFLOAT16, FLOAT16, Array, DType
from mse_grad_kernel.native import NativeKernel
from support.numerics.kernel_operands import assert_same_bits

# More than the widest vector and not a multiple of it, so that both the loop and its tail round.
COUNT = 33
INFINITY = {FLOAT16: 0x7C00, BFLOAT16: 0x7F80}

half_dtypes = pytest.mark.parametrize("dtype", [FLOAT16, BFLOAT16], ids=lambda dtype: dtype.name)


def rounded(native: NativeKernel, variant: str, dtype: DType, values: NDArray[np.float32]) -> Array:
    """Returns `values` rounded by the kernel: (1 - 0) * value * 1, so that the coefficient is the value."""
    one, zero = np.ones(COUNT, dtype.numpy), np.zeros(COUNT, dtype.numpy)
    rows = np.empty((values.size, COUNT), dtype.numpy)
    for value, row in zip(values.tolist(), rows, strict=True):
        native.compute(variant, dtype, one, zero, one, row, c=value, scalar_dout=False)
    assert_same_bits(rows.reshape(-1), np.repeat(rows[:, :1], COUNT, axis=1).reshape(-1))
    return rows[:, 0]


@half_dtypes
@pytest.mark.parametrize("sign", [1, -1], ids=["positive", "negative"])
def test_values_at_and_beside_every_midpoint_round_to_nearest_even(
    native: NativeKernel, variant: str, dtype: DType, sign: int
) -> None:
    lower = np.arange(INFINITY[dtype], dtype=np.uint16)
    # The value after the greatest finite one would have the exponent of infinity; rounding does not regard that limit.
    values = lower.view(dtype.numpy).astype(np.float64)
    above = np.append(values[1:], 2 * values[-1] - values[-2])
    midpoint = ((values + above) / 2).astype(np.float32)
    assert ((midpoint.astype(np.float64) * 2) == values + above).all()
    cases = (
        (midpoint, lower + (lower & 1)),
        (np.nextafter(midpoint, np.float32(0)), lower),
        (np.nextafter(midpoint, np.float32(np.inf)), lower + 1),
    )
    sign_bit = 0x8000 if sign < 0 else 0
    for inputs, magnitudes in cases:
        expected = (magnitudes | sign_bit).astype(np.uint16).view(dtype.numpy)
        assert_same_bits(rounded(native, variant, dtype, inputs * np.float32(sign)), expected)


@half_dtypes
def test_any_float32_rounds_as_numpy_and_ml_dtypes_round_it(native: NativeKernel, variant: str, dtype: DType) -> None:
    bits = np.random.default_rng(2).integers(0, 1 << 32, 50_000, dtype=np.uint32)
    values = np.concatenate((bits.view(np.float32), np.array([np.inf, -np.inf, np.nan, 3.4e38, 1e-45], np.float32)))
    with np.errstate(all="ignore"):
        expected = values.astype(dtype.numpy)
    assert_same_bits(rounded(native, variant, dtype, values), expected)


@half_dtypes
def test_every_value_goes_through_float32_and_back_unchanged(native: NativeKernel, variant: str, dtype: DType) -> None:
    every = np.arange(1 << 16, dtype=np.uint16).view(dtype.numpy)
    y = np.empty_like(every)
    one, zero = np.ones_like(every), np.zeros_like(every)
    native.compute(variant, dtype, every, zero, one, y, c=1.0, scalar_dout=False)
    assert_same_bits(y, every)
