"""The conformance run passes the formula and reports its figures."""

from __future__ import annotations

import json

import ml_dtypes
import numpy as np
import pytest

from mse_grad.tensor import BFLOAT16, DTYPES, FLOAT16, FLOAT32, FLOAT64, Array, DType, Reduction
from mse_grad_cli.conformance import BarReport, Case, Dout, Line, Row, run_bar
from mse_grad_cli.conformance.tally import Tally
from support.numerics.compute import formula_compute, formula_part

by_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.name)


def failing(report: BarReport) -> set[Line]:
    return {row.line for row in report.failures}


def from_the_second_element(predict: Array, label: Array, dout: Dout, reduction: str) -> Array:
    y = formula_compute(predict, label, dout, reduction)
    y.reshape(-1)[:1] = 0
    return y


@by_dtype
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_passes_the_formula(dtype: DType, seed: int) -> None:
    report = run_bar(formula_compute, dtypes=[dtype], part=formula_part, quick=True, seed=seed)
    assert report.passed, report


@pytest.mark.slow
def test_passes_the_formula_with_every_shape() -> None:
    report = run_bar(formula_compute, part=formula_part)
    assert report.passed, report


def saturating(predict: Array, label: Array, dout: Dout, reduction: str) -> Array:
    y = formula_compute(predict, label, dout, reduction)
    largest = ml_dtypes.finfo(y.dtype).max  # type: ignore[no-untyped-call]
    return np.where(np.isnan(y), y.dtype.type(0), np.clip(y, -largest, largest)).astype(y.dtype)


@pytest.mark.parametrize("dtype", [FLOAT32, FLOAT16, BFLOAT16], ids=lambda dtype: dtype.name)
def test_a_saturating_implementation_passes_if_only_finite_elements_are_checked(dtype: DType) -> None:
    judged = run_bar(saturating, dtypes=[dtype], quick=True)
    assert failing(judged) >= {Line.EDGES, Line.OUTSIDE}
    assert judged.left_out == 0
    finite = run_bar(saturating, dtypes=[dtype], quick=True, finite_only=True)
    assert finite.passed, finite
    assert finite.left_out > 1000
    assert finite.as_dict()["left_out"] == finite.left_out


def test_an_implementation_that_flushes_subnormals_fails_even_so() -> None:
    def flushing(predict: Array, label: Array, dout: Dout, reduction: str) -> Array:
        y = saturating(predict, label, dout, reduction)
        y[np.abs(y) < np.finfo(np.float32).smallest_normal] = 0
        return y

    assert failing(run_bar(flushing, dtypes=[FLOAT32], quick=True, finite_only=True)) >= {Line.EDGES, Line.OUTSIDE}


@by_dtype
def test_judges_every_line_of_a_dtype_once(dtype: DType) -> None:
    report = run_bar(formula_compute, dtypes=[dtype], quick=True)
    lines = [row.line for row in report.rows]
    assert len(lines) == len(set(lines))
    half = {Line.HALF_ULP, Line.HALF_EQUAL, Line.HALF_BITS}
    wide = {Line.ULP, Line.BITS}
    others = (wide if dtype in (FLOAT16, BFLOAT16) else half) | (set() if dtype is FLOAT64 else {Line.CENTRAL})
    assert set(lines) == set(Line) - others - {Line.PATH}


@by_dtype
def test_both_domains_get_elements(dtype: DType) -> None:
    report = run_bar(formula_compute, dtypes=[dtype], quick=True)
    coverage = next(row for row in report.rows if row.line is Line.COVERAGE)
    assert coverage.figure > 1000


def test_a_domain_without_elements_fails() -> None:
    tally = Tally(FLOAT32)
    ones = np.ones(8, np.float32)
    case = Case("ones", FLOAT32, ones, ones, ones, Reduction.SUM)
    tally.add(case, case.run(formula_compute))
    assert {row.line for row in tally.rows() if not row.passed} == {Line.COVERAGE}


def test_a_path_with_other_bits_fails_its_row_only() -> None:
    paths = {"same": formula_compute, "other": from_the_second_element}
    report = run_bar(formula_compute, dtypes=[FLOAT16], paths=paths, quick=True)
    assert [(row.line, row.path) for row in report.failures] == [(Line.PATH, "other")]
    assert [row.path for row in report.rows if row.line is Line.PATH] == ["same", "other"]


@by_dtype
def test_a_part_with_an_n_of_its_own_fails_parts_and_edges(dtype: DType) -> None:
    def forgetful(predict: Array, label: Array, dout: Dout, reduction: str, numel: int) -> Array:
        return formula_compute(predict, label, dout, reduction)

    report = run_bar(formula_compute, dtypes=[dtype], part=forgetful, quick=True)
    assert failing(report) == {Line.PARTS, Line.EDGES}


@by_dtype
@pytest.mark.parametrize("bits", [31, 32])
def test_an_n_of_too_few_bits_fails_the_edges(dtype: DType, bits: int) -> None:
    def narrow(predict: Array, label: Array, dout: Dout, reduction: str, numel: int) -> Array:
        return formula_part(predict, label, dout, reduction, numel % 2**bits)

    report = run_bar(formula_compute, dtypes=[dtype], part=narrow, quick=True)
    assert failing(report) == {Line.EDGES}


def test_an_implementation_for_one_thread_gets_no_row_for_threads() -> None:
    report = run_bar(formula_compute, dtypes=[FLOAT32], threads=1, quick=True)
    assert Line.THREADS not in {row.line for row in report.rows}


def test_further_lengths_come_with_their_neighbours() -> None:
    seen: list[Case] = []
    run_bar(formula_compute, dtypes=[FLOAT32], lengths=[9000], quick=True, on_case=seen.append)
    assert {8999, 9000, 9001} <= {case.predict.size for case in seen}


def test_the_same_seed_gives_the_same_data_and_another_seed_others() -> None:
    def first_data(seed: int) -> list[bytes]:
        seen: list[Case] = []
        run_bar(formula_compute, dtypes=[FLOAT32], quick=True, seed=seed, on_case=seen.append)
        return [case.predict.tobytes() for case in seen]

    assert first_data(3) == first_data(3)
    assert first_data(3) != first_data(4)


def test_an_exception_of_the_implementation_ends_the_run_and_names_the_case() -> None:
    def broken(predict: Array, label: Array, dout: Dout, reduction: str) -> Array:
        raise ConnectionError("gone")

    with pytest.raises(ConnectionError, match="gone") as caught:
        run_bar(broken, quick=True)
    assert caught.value.__notes__ == ["float32, normal data, dout full, shape [], none"]


def test_a_failing_row_names_the_case_the_element_and_both_values() -> None:
    report = run_bar(from_the_second_element, dtypes=[FLOAT32], quick=True)
    note = next(row.note for row in report.failures if row.line is Line.FALSE_ZEROS)
    assert "element 0 is 0, not " in note
    assert "shape [" in note


def test_a_nan_in_place_of_a_number_is_infinitely_far_and_json_says_so() -> None:
    def nan_first(predict: Array, label: Array, dout: Dout, reduction: str) -> Array:
        y = formula_compute(predict, label, dout, reduction)
        y.reshape(-1)[:1] = np.nan
        return y

    report = run_bar(nan_first, dtypes=[FLOAT32], quick=True)
    assert next(row.figure for row in report.failures if row.line is Line.ULP) == float("inf")
    rows = json.loads(json.dumps(report.as_dict(), allow_nan=False))["rows"]
    assert next(row["figure"] for row in rows if row["line"] == "ulp") == "inf"


def test_the_report_is_json_with_every_row() -> None:
    report = run_bar(formula_compute, dtypes=[FLOAT32], quick=True)
    decoded = json.loads(json.dumps(report.as_dict()))
    assert decoded["passed"] is True
    assert decoded["cases"] == report.cases
    assert decoded["elements"] == report.elements
    assert [row["line"] for row in decoded["rows"]] == [row.line.value for row in report.rows]
    assert all(row["passed"] for row in decoded["rows"])


def test_a_report_without_rows_has_not_passed() -> None:
    assert not BarReport((), cases=0, elements=0, duration_s=0.0).passed


@pytest.mark.parametrize("figure", [1.5, float("inf"), float("nan")])
def test_a_row_above_its_upper_limit_has_not_passed(figure: float) -> None:
    assert not Row("float32", Line.RMS, figure, 1.0).passed


@pytest.mark.parametrize("figure", [0.5, float("-inf"), float("nan")])
def test_a_row_below_its_lower_limit_has_not_passed(figure: float) -> None:
    assert not Row("float16", Line.HALF_EQUAL, figure, 1.0, at_least=True).passed


def test_a_failing_bar_fails_for_the_dtype_at_fault_only() -> None:
    def wrong_in_half(predict: Array, label: Array, dout: Dout, reduction: str) -> Array:
        y = formula_compute(predict, label, dout, reduction)
        return y if y.dtype != np.float16 else -y

    report = run_bar(wrong_in_half, dtypes=[FLOAT32, FLOAT16, BFLOAT16], quick=True)
    assert {row.dtype for row in report.failures} == {"float16"}
    assert failing(report) >= {Line.HALF_ULP, Line.HALF_EQUAL, Line.HALF_BITS, Line.RMS, Line.EDGES}
