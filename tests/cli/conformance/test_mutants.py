"""The bar kills every mutant, each by the lines that are there for it."""

from __future__ import annotations

import pytest

from mse_grad.tensor import DType
from mse_grad_cli.conformance import Line, run_bar
from support.numerics.mutants import MUTANTS, Mutant

KILLS = [
    pytest.param(mutant, dtype, id=f"{mutant.name}, {dtype.name}") for mutant in MUTANTS for dtype in mutant.killed_by
]


@pytest.mark.parametrize(("mutant", "dtype"), KILLS)
def test_kills(mutant: Mutant, dtype: DType) -> None:
    report = run_bar(mutant.make(), dtypes=[dtype], quick=True)
    failed = {row.line for row in report.failures}
    assert not report.passed
    assert set(mutant.killed_by[dtype]) <= failed


def test_every_line_that_judges_results_has_a_mutant() -> None:
    needed = {line for mutant in MUTANTS for lines in mutant.killed_by.values() for line in lines}
    # These two are not about results: test_bar_run.py fails them.
    assert needed == set(Line) - {Line.COVERAGE, Line.PATH}
