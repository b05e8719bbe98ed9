"""Casts and arithmetic of the vector unit against NumPy and ml_dtypes: every 16-bit value, every rounding decision."""

from __future__ import annotations

from bisect import bisect_left
from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

from mse_grad.tensor import Array
from support.npu.simulator import Simulator

# Numbers of sim::VectorOp, sim::Element and AscendC::RoundMode.
ADD, SUB, MUL, MULS, DUPLICATE, CAST = range(6)
INT16, HALF, BFLOAT16, INT32, FLOAT = 2, 4, 5, 6, 8
NONE, RINT, FLOOR, CEIL, ROUND, TRUNC, ODD = range(7)

NUMPY = {HALF: np.dtype(np.float16), BFLOAT16: np.dtype(ml_dtypes.bfloat16)}
CHUNK = 2**24
ALL_BITS = np.arange(2**16, dtype=np.uint16)


def cast(simulator: Simulator, values: Array, to: int, source: int, mode: int) -> Array:
    result = np.empty(values.size, np.float32 if to == FLOAT else NUMPY[to])
    simulator.vector(CAST, to, source, dst=result, src0=np.ascontiguousarray(values), round_mode=mode)
    return result


def narrowed(values: NDArray[np.float32], element: int) -> Array:
    """Returns the 16-bit values of a chunk of consecutive bits: by NumPy, or directly if every half is 0, Inf or NaN.

    NumPy takes 16 times as long for a value that overflows or underflows.
    """
    least, most = abs(float(values[0])), abs(float(values[-2]))
    if element == HALF and most < 2.0**-26:
        zeros: Array = np.copysign(np.float16(0), values).astype(np.float16)
        return zeros
    if element == HALF and least >= 2.0**17:
        signed: Array = np.copysign(np.float16(np.inf), values).astype(np.float16)
        signed[np.isnan(values)] = np.nan
        return signed
    with np.errstate(all="ignore"):
        halves: Array = values.astype(NUMPY[element])
        return halves


def same(a: Array, b: Array) -> bool:
    unsigned = f"u{a.dtype.itemsize}"
    unlike = a.view(unsigned) != b.view(unsigned)
    return not unlike.any() or bool((np.isnan(a[unlike]) & np.isnan(b[unlike])).all())


def decisive(element: int) -> NDArray[np.float32]:
    """Returns every value of the 16-bit type, the midpoints between them, and the floats beside each of these.

    No other value decides a rounding.
    """
    exact = ALL_BITS.view(NUMPY[element]).astype(np.float32)
    finite = np.sort(exact[np.isfinite(exact)]).astype(np.float64)
    infinity = np.float32(np.inf)
    with np.errstate(all="ignore"):
        middle = ((finite[:-1] + finite[1:]) / 2).astype(np.float32)
        past_largest = (finite[-1] + (finite[-1] - finite[-2]) * np.asarray([0.5, 1.0, 2.0])).astype(np.float32)
        edges = np.concatenate([past_largest, np.asarray([np.inf, np.nan, 2.0**-149], np.float32)])
        points = np.concatenate([exact, middle, edges, -edges])
        return np.concatenate([points, np.nextafter(points, infinity), np.nextafter(points, -infinity)])


def rounded(value: float, mode: int, finite: list[Fraction]) -> int:
    """Returns the bits, without sign, that `value` rounds to by exact arithmetic.

    Args:
        value: A finite number.
        mode: Number of AscendC::RoundMode.
        finite: All finite values >= 0 of the type, ascending: the index of each is its bits.
    """
    magnitude = abs(Fraction(value))
    above = bisect_left(finite, magnitude)
    if above < len(finite) and finite[above] == magnitude:
        return above
    low = above - 1
    # Above the largest value comes the first value of the next exponent; its bits are those of infinity.
    high = finite[above] if above < len(finite) else 2 * finite[low] - finite[low - 1]
    twice, tie = 2 * magnitude, finite[low] + high
    up = {
        RINT: twice > tie or (twice == tie and low % 2 == 1),
        ROUND: twice >= tie,
        FLOOR: value < 0,
        CEIL: value > 0,
        TRUNC: False,
        ODD: low % 2 == 0,
    }[mode]
    return low + int(up)


@pytest.mark.parametrize("element", [HALF, BFLOAT16])
def test_widening_is_exact_for_every_value(simulator: Simulator, element: int) -> None:
    values = ALL_BITS.view(NUMPY[element])
    assert same(cast(simulator, values, FLOAT, element, NONE), values.astype(np.float32))


@pytest.mark.parametrize("element", [HALF, BFLOAT16])
def test_narrowing_rounds_as_numpy_at_every_decision(simulator: Simulator, element: int) -> None:
    values = decisive(element)
    with np.errstate(all="ignore"):
        expected = values.astype(NUMPY[element])
    assert values.size > 3 * 2**17 - 10**4
    assert same(cast(simulator, values, element, FLOAT, RINT), expected)


def test_half_takes_none_as_rint(simulator: Simulator) -> None:
    values = decisive(HALF)
    assert same(cast(simulator, values, HALF, FLOAT, NONE), cast(simulator, values, HALF, FLOAT, RINT))


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("element", [HALF, BFLOAT16])
def test_narrowing_rounds_as_numpy_for_every_float(simulator: Simulator, element: int) -> None:
    for begin in range(0, 2**32, CHUNK):
        values = np.arange(begin, begin + CHUNK, dtype=np.uint32).view(np.float32)
        result = cast(simulator, values, element, FLOAT, RINT)
        assert same(result, narrowed(values, element)), hex(begin)


@pytest.mark.parametrize(
    ("element", "mode"),
    [(element, mode) for element in (HALF, BFLOAT16) for mode in (RINT, FLOOR, CEIL, ROUND, TRUNC)] + [(HALF, ODD)],
)
def test_every_mode_rounds_as_exact_arithmetic_says(simulator: Simulator, element: int, mode: int) -> None:
    exact = ALL_BITS.view(NUMPY[element]).astype(np.float32)
    finite = [Fraction(float(value)) for value in exact[: 2**15] if np.isfinite(value)]
    rng = np.random.default_rng(mode)
    values = decisive(element)
    values = rng.choice(values[np.isfinite(values)], 4000)
    result = cast(simulator, values, element, FLOAT, mode).view(np.uint16)
    for value, bits in zip(values.tolist(), result.tolist(), strict=True):
        sign = 0x8000 if np.signbit(value) else 0
        assert bits == rounded(value, mode, finite) | sign, (value, hex(bits))


@pytest.mark.parametrize(("op", "numpy_op"), [(ADD, np.add), (SUB, np.subtract), (MUL, np.multiply)])
def test_half_arithmetic_rounds_once(simulator: Simulator, op: int, numpy_op: np.ufunc) -> None:
    rng = np.random.default_rng(op)
    a = np.concatenate([ALL_BITS] * 8).view(np.float16)
    b = rng.integers(0, 2**16, a.size, dtype=np.uint16).view(np.float16)
    result = np.empty_like(a)
    simulator.vector(op, HALF, HALF, dst=result, src0=a, src1=b)
    with np.errstate(all="ignore"):
        assert same(result, numpy_op(a, b))


@pytest.mark.parametrize(("op", "numpy_op"), [(ADD, np.add), (SUB, np.subtract), (MUL, np.multiply)])
@pytest.mark.parametrize("element", [FLOAT, INT32, INT16])
def test_arithmetic_is_that_of_numpy(simulator: Simulator, element: int, op: int, numpy_op: np.ufunc) -> None:
    rng = np.random.default_rng(op)
    dtype = {FLOAT: np.float32, INT32: np.int32, INT16: np.int16}[element]
    a, b = (rng.integers(0, 256, 4 * 10**5, dtype=np.uint8).view(dtype) for _ in range(2))
    result = np.empty_like(a)
    simulator.vector(op, element, element, dst=result, src0=a, src1=b)
    with np.errstate(all="ignore"):
        assert same(result, numpy_op(a, b))


def test_muls_multiplies_by_one_value(simulator: Simulator) -> None:
    values = np.arange(-8, 8, dtype=np.float32)
    result = np.empty_like(values)
    simulator.vector(MULS, FLOAT, FLOAT, dst=result, src0=values, scalar=int(np.float32(0.1).view(np.uint32)))
    assert same(result, values * np.float32(0.1))


@pytest.mark.parametrize("element", [HALF, BFLOAT16])
def test_duplicate_fills(simulator: Simulator, element: int) -> None:
    result = np.zeros(33, NUMPY[element])
    simulator.vector(DUPLICATE, element, element, dst=result, src0=result, scalar=0x3C12)
    assert (result.view(np.uint16) == 0x3C12).all()


@pytest.mark.parametrize(
    ("op", "to", "source", "mode"),
    [
        (CAST, BFLOAT16, FLOAT, NONE),
        (CAST, BFLOAT16, FLOAT, ODD),
        (CAST, FLOAT, HALF, RINT),
        (CAST, HALF, BFLOAT16, RINT),
        (ADD, BFLOAT16, BFLOAT16, NONE),
        (MULS, BFLOAT16, BFLOAT16, NONE),
    ],
)
def test_an_instruction_that_the_chips_lack_is_refused(
    simulator: Simulator, op: int, to: int, source: int, mode: int
) -> None:
    values = np.zeros(8, np.float32)
    with pytest.raises(ValueError, match="there is no such instruction"):
        simulator.vector(op, to, source, dst=values, src0=values, src1=values, round_mode=mode)
