"""Checks that compare results with the golden result and the reference."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from mse_grad.tensor import BFLOAT16, FLOAT16, FLOAT32, FLOAT64, Array, DType
from mse_grad_cli.conformance.case import Case
from mse_grad_cli.conformance.expected import NAN_DISTANCE, same_bits, ulp_distance
from mse_grad_cli.conformance.report import Line, Row

__all__ = ["Tally"]

ULP_LIMIT = {FLOAT16: 1, BFLOAT16: 1, FLOAT32: 4, FLOAT64: 4}
HALF_EQUAL_LIMIT_PERCENT = 99.5
RMS_LIMIT = {FLOAT16: 2.0**-11, BFLOAT16: 2.0**-8, FLOAT32: 2.0**-22, FLOAT64: 2.0**-51}
_SHOWN = 17
"""Digits that distinguish every float64 from its neighbours."""


@dataclass
class _Count:
    """Number of occurrences, and a description of the first."""

    count: int = 0
    first: str = ""

    def add(self, where: NDArray[np.bool_], case: Case, y: Array, expected: Array) -> None:
        found = int(np.count_nonzero(where))
        if found and not self.count:
            self.first = _describe(case, int(np.argmax(where)), y, expected)
        self.count += found


@dataclass
class Tally:
    """Figures of the results of one dtype.

    Attributes:
        dtype: Element type.
        finite_only: Whether to skip elements that are not finite or have such an intermediate.
        cases: Checked results so far.
        elements: Checked elements so far.
        left_out: Skipped elements so far.
    """

    dtype: DType
    finite_only: bool = False
    cases: int = 0
    elements: int = 0
    left_out: int = 0
    _plain: int = 0
    _equal: int = 0
    _wrong_form: int = 0
    _first_wrong_form: str = ""
    _ulp: int = 0
    _worst_ulp: str = ""
    _unlike: _Count = field(default_factory=_Count)
    _unlike_outside: _Count = field(default_factory=_Count)
    _false_zeros: _Count = field(default_factory=_Count)
    _mean_square_sum: float = 0.0
    _mean_square_elements: int = 0

    def add(self, case: Case, result: Array) -> None:
        """Checks `result`, the answer of the implementation to `case`."""
        self.cases += 1
        self.elements += case.predict.size
        if result.shape != case.predict.shape or result.dtype != case.dtype.numpy:
            if not self._wrong_form:
                self._first_wrong_form = f"{case}: shape {list(result.shape)}, dtype {result.dtype}"
            self._wrong_form += 1
            return
        if result.size:
            with np.errstate(all="ignore"):
                self._judge(case, result.reshape(-1))

    def rows(self) -> list[Row]:
        """Returns the figures so far."""
        name = self.dtype.name
        half = self.dtype in (FLOAT16, BFLOAT16)
        outside = self.elements - self._plain
        ulp = math.inf if self._ulp == NAN_DISTANCE else self._ulp
        rows = [
            Row(name, Line.FORM, self._wrong_form, 0, note=self._first_wrong_form or f"{self.cases} results"),
            Row(
                name,
                Line.COVERAGE,
                # Finite elements are rarely outside the domain, in float16 never.
                self._plain if self.finite_only else min(self._plain, outside),
                1,
                at_least=True,
                note=f"{self._plain:,} in the domain, {outside:,} outside",
            ),
            Row(name, Line.HALF_ULP if half else Line.ULP, ulp, ULP_LIMIT[self.dtype], "ULP", note=self._worst_ulp),
        ]
        if half:
            equal_percent = 100 * self._equal / max(self._plain, 1)
            rows.append(Row(name, Line.HALF_EQUAL, equal_percent, HALF_EQUAL_LIMIT_PERCENT, "%", at_least=True))
        rms = (self._mean_square_sum / max(self._mean_square_elements, 1)) ** 0.5
        return [
            *rows,
            Row(name, Line.HALF_BITS if half else Line.BITS, self._unlike.count, 0, note=self._unlike.first),
            Row(name, Line.FALSE_ZEROS, self._false_zeros.count, 0, note=self._false_zeros.first),
            Row(name, Line.RMS, rms, RMS_LIMIT[self.dtype]),
            Row(name, Line.OUTSIDE, self._unlike_outside.count, 0, note=self._unlike_outside.first),
        ]

    def _judge(self, case: Case, y: Array) -> None:
        golden, plain = case.golden, case.reference.plain
        unlike = ~same_bits(y, case.reference.y)
        if self.finite_only:
            finite = case.reference.finite
            left_out = int(np.count_nonzero(~finite))
            self.left_out += left_out
            self.elements -= left_out
            plain, unlike = plain & finite, unlike & finite
        self._unlike.add(unlike & plain, case, y, case.reference.y)
        self._unlike_outside.add(unlike & ~plain, case, y, case.reference.y)
        self._plain += int(np.count_nonzero(plain))
        if not plain.any():
            return
        self._equal += int(np.count_nonzero(same_bits(y, golden) & plain))
        self._false_zeros.add((y == 0) & (golden != 0) & plain, case, y, golden)
        distance = np.where(plain, ulp_distance(y, golden), np.uint64(0))
        worst = int(np.argmax(distance))
        if int(distance[worst]) > self._ulp:
            self._ulp = int(distance[worst])
            self._worst_ulp = _describe(case, worst, y, golden)
        self._add_mean_square(y, golden, plain)

    def _add_mean_square(self, y: Array, golden: Array, plain: NDArray[np.bool_]) -> None:
        # If the golden result overflowed, there is no error to square, and the distance in ULP decides.
        judged = plain & np.isfinite(golden)
        wanted = golden[judged].astype(np.float64)
        largest = np.max(np.abs(wanted), initial=0.0)
        if largest == 0.0:
            return
        error = (y[judged].astype(np.float64) - wanted) / largest
        wanted /= largest
        # Each case counts by its number of elements. Cases are pooled, because one element dominates a case of many
        # magnitudes.
        self._mean_square_sum += float(np.square(error).sum() / np.square(wanted).sum()) * wanted.size
        self._mean_square_elements += wanted.size


def _describe(case: Case, index: int, y: Array, expected: Array) -> str:
    got, wanted = float(y[index]), float(expected[index])
    return f"{case}: element {index} is {got:.{_SHOWN}g}, not {wanted:.{_SHOWN}g}"
