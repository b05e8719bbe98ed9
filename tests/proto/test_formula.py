"""The formula in NumPy: the coefficient, the order of the steps, and no difference between its blocks."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from mse_grad.formula import coefficient, gradient_into
from mse_grad.tensor import BFLOAT16, DTYPES, FLOAT16, FLOAT32, FLOAT64, Array, DType, Reduction
from support.values import operands

by_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.name)
by_float32_inside = pytest.mark.parametrize("dtype", [FLOAT32, FLOAT16, BFLOAT16], ids=lambda dtype: dtype.name)
# Past two of its blocks, with a tail.
COUNT = 2 * 32768 + 5


def gradient(predict: Array, label: Array, dout: Array, *, c: float, dtype: DType) -> Array:
    y = np.full(predict.shape, 77, dtype.numpy)
    gradient_into(y, predict, label, dout, c=c, dtype=dtype)
    return y


def in_one_piece(predict: Array, label: Array, dout: Array, *, c: float, dtype: DType) -> Array:
    compute = dtype.compute.type
    with np.errstate(all="ignore"):
        y = (predict.astype(compute) - label.astype(compute)) * compute(c) * dout.astype(compute)
        return np.asarray(y, dtype.numpy)


@by_dtype
@pytest.mark.parametrize("reduction", [Reduction.NONE, Reduction.SUM])
def test_c_is_2_without_a_mean(dtype: DType, reduction: Reduction) -> None:
    assert coefficient(reduction, 12345, dtype) == 2.0


@by_float32_inside
@pytest.mark.parametrize("numel", [1, 3, 65503, 2**24 + 1, 2**31, 2**53 + 1, 2**62])
def test_c_of_a_mean_is_the_double_quotient_rounded_to_float32(dtype: DType, numel: int) -> None:
    assert coefficient(Reduction.MEAN, numel, dtype) == float(np.float32(2.0 / numel))


@pytest.mark.parametrize("numel", [1, 3, 65503, 2**31 + 1])
def test_c_of_a_mean_in_float64_is_the_double_nearest_to_the_quotient(numel: int) -> None:
    c = Fraction(coefficient(Reduction.MEAN, numel, FLOAT64))
    unit = Fraction(float(np.spacing(float(c))))
    assert abs(c - Fraction(2, numel)) <= unit / 2


@by_dtype
def test_subtracts_then_multiplies_by_c_then_by_dout(dtype: DType) -> None:
    predict, label, dout = operands((COUNT,), dtype)
    c = coefficient(Reduction.MEAN, COUNT, dtype)
    y = gradient(predict, label, dout, c=c, dtype=dtype)
    assert y.tobytes() == in_one_piece(predict, label, dout, c=c, dtype=dtype).tobytes()


@by_dtype
def test_one_element_of_dout_serves_all_blocks(dtype: DType) -> None:
    predict, label, dout = operands((COUNT,), dtype)
    y = gradient(predict, label, dout[:1], c=0.1, dtype=dtype)
    full = np.full(COUNT, dout[0])
    assert y.tobytes() == gradient(predict, label, full, c=0.1, dtype=dtype).tobytes()


@by_dtype
@pytest.mark.parametrize("count", [0, 1, 32767, 32768, 32769, COUNT])
def test_writes_every_element_and_nothing_else(dtype: DType, count: int) -> None:
    predict, label, dout = operands((count,), dtype)
    room = np.full(count + 2, 77, dtype.numpy)
    gradient_into(room[1 : count + 1], predict, label, dout, c=2.0, dtype=dtype)
    assert room[1 : count + 1].tobytes() == in_one_piece(predict, label, dout, c=2.0, dtype=dtype).tobytes()
    assert (room[0], room[-1]) == (77, 77)


@by_dtype
def test_takes_read_only_operands_and_memory_off_every_alignment(dtype: DType) -> None:
    given = operands((COUNT,), dtype)
    shifted = [np.frombuffer(b"\0" + operand.tobytes(), dtype.numpy, offset=1) for operand in given]
    y = np.frombuffer(bytearray(given[0].nbytes + 1), dtype.numpy, offset=1)
    gradient_into(y, shifted[0], shifted[1], shifted[2], c=0.3, dtype=dtype)
    assert y.tobytes() == gradient(*given, c=0.3, dtype=dtype).tobytes()
    assert all(operand.tobytes() == view.tobytes() for operand, view in zip(given, shifted, strict=True))


@pytest.mark.parametrize("dtype", [FLOAT16, BFLOAT16], ids=lambda dtype: dtype.name)
@pytest.mark.parametrize("c", [1.0, 0.5, 1 / 3, 2.0**-10, 3.0 * 2.0**-15, 1e-6, 2.0**-25])
def test_rounds_every_value_of_16_bits_as_one_cast_does(dtype: DType, c: float) -> None:
    """For float16 most of these results are subnormal, which the formula rounds by its own rule."""
    every = np.arange(1 << 16, dtype=np.uint16).view(dtype.numpy)
    zeros, ones = np.zeros_like(every), np.ones_like(every)
    y = gradient(every, zeros, ones, c=c, dtype=dtype)
    wanted = in_one_piece(every, zeros, ones, c=c, dtype=dtype)
    with np.errstate(invalid="ignore"):
        number = ~np.isnan(wanted)
        assert (np.isnan(y) == ~number).all()
    assert y[number].tobytes() == wanted[number].tobytes()
