"""The golden, the reference and the distance between results, against exact arithmetic."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mse_grad.formula import coefficient, gradient_into
from mse_grad.tensor import BFLOAT16, DTYPES, FLOAT16, FLOAT32, FLOAT64, Array, DType, Reduction
from mse_grad_cli.conformance import golden, make_case, reference, round_once, same_bits, ulp_distance
from mse_grad_cli.conformance.expected import NAN_DISTANCE

LONG_DOUBLE_IS_WIDER = np.finfo(np.longdouble).nmant > np.finfo(np.float64).nmant
ROUNDED = (FLOAT16, BFLOAT16, FLOAT32)
SIGNIFICANT_BITS = {FLOAT16: 11, BFLOAT16: 8, FLOAT32: 24, FLOAT64: 53}
SMALLEST_EXPONENT = {FLOAT16: -24, BFLOAT16: -133, FLOAT32: -149, FLOAT64: -1074}

by_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.name)


def exactly_rounded(value: Fraction, dtype: DType) -> float:
    """The nearest number of `dtype`, ties to even, by arithmetic on integers; without a bound on the exponent."""
    magnitude = abs(value)
    exponent = magnitude.numerator.bit_length() - magnitude.denominator.bit_length()  # or one too large
    exponent -= magnitude < Fraction(2) ** exponent
    unit = Fraction(2) ** max(exponent - SIGNIFICANT_BITS[dtype] + 1, SMALLEST_EXPONENT[dtype])
    rounded = float(round(magnitude / unit) * unit)  # round() takes a Fraction half-way to the even integer
    return -rounded if value < 0 else rounded


def as_array(values: Sequence[float], dtype: DType) -> Array:
    """The array of numbers that `dtype` holds exactly, or that overflow it."""
    with np.errstate(over="ignore"):
        return np.array(values, np.float64).astype(dtype.numpy)


@pytest.mark.parametrize("dtype", ROUNDED, ids=lambda dtype: dtype.name)
@given(st.floats(min_value=-1e300, max_value=1e300) | st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_rounds_any_float64_once(dtype: DType, value: float) -> None:
    rounded = round_once(np.array([value]), dtype)
    assert ulp_distance(rounded, as_array([exactly_rounded(Fraction(value), dtype)], dtype)) == 0


@pytest.mark.parametrize("dtype", ROUNDED, ids=lambda dtype: dtype.name)
def test_rounds_once_on_both_sides_of_every_tie(dtype: DType) -> None:
    bits = SIGNIFICANT_BITS[dtype] - 1
    mantissas = np.arange(2 ** min(bits, 10)) * 2.0**-bits + 1
    for exponent in (0, 5, int(SMALLEST_EXPONENT[dtype]) + bits - 1):
        ties: Array = (mantissas + 2.0 ** -(bits + 1)) * 2.0**exponent
        if exponent < SMALLEST_EXPONENT[dtype] + bits:
            ties = (np.arange(64) + 0.5) * 2.0 ** SMALLEST_EXPONENT[dtype]
        for values in (ties, np.nextafter(ties, np.inf), np.nextafter(ties, -np.inf), -ties):
            exact = as_array([exactly_rounded(Fraction(float(value)), dtype) for value in values], dtype)
            assert same_bits(round_once(values, dtype), exact).all()


def test_rounding_twice_would_be_wrong() -> None:
    just_above_the_tie = np.array([1 + 2.0**-8 + 2.0**-40])
    assert just_above_the_tie.astype(BFLOAT16.numpy).astype(float) == 1.0
    assert round_once(just_above_the_tie, BFLOAT16).astype(float) == 1 + 2.0**-7


@pytest.mark.parametrize("dtype", ROUNDED, ids=lambda dtype: dtype.name)
def test_rounds_infinities_nans_zeros_and_overflow(dtype: DType) -> None:
    rounded = round_once(np.array([np.inf, -np.inf, np.nan, 0.0, -0.0, 1e300, -1e300]), dtype).astype(float)
    np.testing.assert_array_equal(rounded, [np.inf, -np.inf, np.nan, 0.0, 0.0, np.inf, -np.inf])
    np.testing.assert_array_equal(np.signbit(rounded[3:5]), [False, True])


@by_dtype
def test_the_distance_to_the_next_number_is_one(dtype: DType) -> None:
    bits = np.arange(0, 2**15, 7, dtype=np.uint64) << np.uint64(8 * dtype.itemsize_bytes - 16)
    numbers = bits.astype(f"u{dtype.itemsize_bytes}")
    with np.errstate(invalid="ignore"):  # signalling NaNs are among them
        finite = numbers[np.isfinite(numbers.view(dtype.numpy))]
    following = (finite + 1).view(dtype.numpy)
    assert (ulp_distance(finite.view(dtype.numpy), following) == 1).all()
    assert (ulp_distance(-finite.view(dtype.numpy), -following) == 1).all()


@by_dtype
def test_the_distance_crosses_zero_and_reaches_infinity(dtype: DType) -> None:
    one = dtype.numpy.type
    least = 2.0 ** SMALLEST_EXPONENT[dtype]
    pairs = [(0.0, -0.0, 0), (least, -least, 2), (np.inf, np.inf, 0), (np.nan, np.nan, 0), (np.nan, 1.0, NAN_DISTANCE)]
    for a, b, distance in pairs:
        assert ulp_distance(np.array([a]).astype(one), np.array([b]).astype(one)) == distance
    all_numbers = 2 * (int(np.array([np.inf], one).view(f"u{dtype.itemsize_bytes}")[0]))
    assert ulp_distance(np.array([np.inf]).astype(one), np.array([-np.inf]).astype(one)) == all_numbers


@by_dtype
def test_same_bits_tells_zeros_apart_and_nans_not(dtype: DType) -> None:
    a = np.array([0.0, np.nan, 1.0, np.inf]).astype(dtype.numpy)
    b = np.array([-0.0, -np.nan, 1.0, -np.inf]).astype(dtype.numpy)
    assert same_bits(a, b).tolist() == [False, True, True, False]


@by_dtype
@pytest.mark.skipif(not LONG_DOUBLE_IS_WIDER, reason="the long double of this platform is a double")
def test_the_golden_is_the_exact_gradient_rounded(dtype: DType) -> None:
    rng = np.random.default_rng(1)
    for kind in ("normal", "wide", "cancelling", "tied"):
        for reduction in Reduction:
            case = make_case(rng, dtype, (33,), kind=kind, reduction=reduction)
            c = Fraction(2, 33) if reduction is Reduction.MEAN else Fraction(2)
            x, t, g = (
                [Fraction(float(v)) for v in operand] for operand in (case.predict, case.label, np.asarray(case.dout))
            )
            exact = [exactly_rounded((a - b) * c * d, dtype) for a, b, d in zip(x, t, g, strict=True)]
            assert ulp_distance(case.golden, as_array(exact, dtype)).max() == 0


@by_dtype
def test_the_reference_has_the_bits_of_the_formula(dtype: DType) -> None:
    rng = np.random.default_rng(2)
    for kind in ("normal", "wide", "extreme", "cancelling", "tied"):
        for reduction in Reduction:
            for dout in ("full", "rank 1"):
                case = make_case(rng, dtype, (40_000,), kind=kind, reduction=reduction, dout=dout)
                y = np.empty_like(case.predict)
                c = coefficient(reduction, y.size, dtype)
                gradient_into(y, case.predict, case.label, np.asarray(case.dout), c=c, dtype=dtype)
                assert same_bits(y, case.reference.y).all()


@pytest.mark.parametrize(
    ("predict", "label", "dout", "plain"),
    [
        (1.0, 0.0, 1.0, True),
        (1.0, 1.0, 1.0, True),  # an exact zero
        (1.0, 0.0, 0.0, True),  # likewise
        (2.0**-130, 0.0, 1.0, False),  # the difference is subnormal
        (2.0**-100, 0.0, 2.0**-40, False),  # the product is
        (2.0**-100, 0.0, 2.0**-100, False),  # a zero that is not exact
        (2.0**-130, 0.0, 2.0**100, False),  # a normal result of a subnormal difference
        (3e38, -3e38, 1e-30, False),  # the difference overflows
        (3e38, 0.0, 1.0, False),  # times c it does
        (np.inf, 0.0, 1.0, False),
        (1.0, 0.0, np.nan, False),
        (1.0, 1.0, np.inf, False),
    ],
)
def test_plain_elements_have_only_normal_intermediates_or_exact_zeros(
    predict: float, label: float, dout: float, plain: bool
) -> None:
    operands = [np.array([value], np.float32) for value in (predict, label, dout)]
    found = reference(*operands, reduction=Reduction.SUM, dtype=FLOAT32)
    assert found.plain.tolist() == [plain]


def test_the_golden_has_a_coefficient_of_its_own() -> None:
    operands = [np.full(3, value, np.float64) for value in (1.0, 0.0, 1.0)]
    assert golden(*operands, reduction=Reduction.MEAN, dtype=FLOAT64).tolist() == [2 / 3] * 3
    assert golden(*operands, reduction=Reduction.SUM, dtype=FLOAT64).tolist() == [2.0] * 3
    assert golden(*(operand[:0] for operand in operands), reduction=Reduction.MEAN, dtype=FLOAT64).size == 0
