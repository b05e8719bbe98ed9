"""The cases match their names."""

from __future__ import annotations

import numpy as np
import pytest

from mse_grad.tensor import DTYPES, FLOAT16, DType, Reduction
from mse_grad_cli.conformance import cases, edges, make_case, same_bits
from mse_grad_cli.conformance.edge import large_edges
from mse_grad_cli.conformance.operands import LAYOUTS
from support.numerics.compute import formula_compute

by_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.name)

# Of docs/numerics.md; 4095 to 4097 and 131071 to 131073 stand for a tile and a chunk.
SHAPES = [(), (0,), (2, 0), (1,), (7,), (31,), (32,), (33,), (511,), (512,), (513,), (4095,), (4096,), (4097,)]
LONG = (131071, 131072, 131073, *range(65503, 65538), 2**20 - 1, 2**20, 2**20 + 1)


@by_dtype
def test_every_shape_of_the_contract_is_there(dtype: DType) -> None:
    shapes = {case.predict.shape for case in cases(dtype)}
    assert {*SHAPES, *((length,) for length in LONG)} <= shapes
    assert any(len(shape) == 8 for shape in shapes)


@by_dtype
def test_small_shapes_meet_every_reduction_and_form_of_dout(dtype: DType) -> None:
    found = {(case.reduction, type(case.dout), np.ndim(case.dout)) for case in cases(dtype, quick=True)}
    assert {reduction for reduction, _, _ in found} == set(Reduction)
    assert {(kind, rank) for _, kind, rank in found} >= {(float, 0), (np.ndarray, 0), (np.ndarray, 1), (np.ndarray, 8)}


@by_dtype
def test_the_golden_of_every_case_ends_in_something_but_zero(dtype: DType) -> None:
    """A kernel that leaves the tail as it was must show."""
    tails = [case.golden[-1] != 0 for case in cases(dtype, quick=True) if case.predict.size]
    assert np.mean(tails) > 0.5


@by_dtype
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layout_keeps_the_elements(dtype: DType, layout: str) -> None:
    laid_out = make_case(np.random.default_rng(5), dtype, (3, 4, 5), layout=layout)
    in_c_order = make_case(np.random.default_rng(5), dtype, (3, 4, 5))
    assert same_bits(laid_out.predict.reshape(-1), in_c_order.predict.reshape(-1)).all()
    assert laid_out.predict.flags.c_contiguous == (layout in ("C", "unaligned"))
    assert laid_out.predict.flags.aligned == (layout != "unaligned")


@by_dtype
def test_ties_are_ties(dtype: DType) -> None:
    case = make_case(np.random.default_rng(5), dtype, (1000,), kind="tied", reduction=Reduction.NONE)
    exact = case.predict.astype(np.longdouble) - case.label.astype(np.longdouble)
    rounded = exact.astype(dtype.numpy).astype(np.longdouble)
    other = 2 * exact - rounded
    assert (exact != rounded).all()
    assert (other.astype(dtype.numpy).astype(np.longdouble) == other).all()


@by_dtype
def test_cancelling_pairs_are_at_most_three_values_apart(dtype: DType) -> None:
    case = make_case(np.random.default_rng(5), dtype, (1000,), kind="cancelling")
    bits = f"u{dtype.itemsize_bytes}"
    steps = case.label.view(bits) - case.predict.view(bits)
    assert set(steps.tolist()) == {0, 1, 2, 3}


@by_dtype
def test_the_formula_holds_every_edge(dtype: DType) -> None:
    for edge in edges(dtype):
        y = edge.case.run(formula_compute)
        assert y.shape == edge.expected.shape
        assert same_bits(y.reshape(-1), edge.expected.reshape(-1)).all(), f"{edge.case}: {y}, not {edge.expected}"


def test_the_formula_holds_the_edge_of_a_coefficient_below_float16() -> None:
    (edge,) = large_edges(FLOAT16)
    assert (edge.case.run(formula_compute) == edge.expected).all()
    assert edge.expected[0] == np.float16(3.0517578e-05)


def test_edge_cases_of_float16_differ_from_float16_arithmetic() -> None:
    """The rows in which PyTorch differs test float32 inside."""
    differing = []
    for edge in edges(FLOAT16):
        with np.errstate(all="ignore"):
            n = max(edge.case.predict.size, 1)
            c = np.float16(2.0 / n if edge.case.reduction is Reduction.MEAN else 2.0)
            y = (edge.case.predict - edge.case.label) * c * np.asarray(edge.case.dout)
        if not same_bits(np.asarray(y).reshape(-1), edge.expected.reshape(-1)).all():
            differing.append(edge.case.name)
    assert {"120 000 between", "80 000 between"} <= set(differing)
