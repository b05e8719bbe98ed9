"""Report of the conformance checks: one row for each check and dtype."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from typing import Any

__all__ = ["BarReport", "Line", "Row"]


class Line(Enum):
    """A line of the bar in docs/numerics.md: its number there, and the measured quantity."""

    number: str
    measure: str

    def __new__(cls, key: str, number: str, measure: str) -> Line:
        """Returns the member whose value is `key`."""
        line = object.__new__(cls)
        line._value_ = key
        line.number = number
        line.measure = measure
        return line

    FORM = "form", "", "results with a wrong shape or dtype"
    COVERAGE = "coverage", "", "elements in the smaller set: in or outside the domain"
    HALF_ULP = "half ulp", "1", "largest distance to golden"
    HALF_EQUAL = "half equal", "1", "equal to golden"
    ULP = "ulp", "2", "largest distance to golden"
    BITS = "bits", "2", "differences from reference"
    HALF_BITS = "half bits", "4", "differences from reference"
    FALSE_ZEROS = "false zeros", "3", "zeros although golden is not 0"
    RMS = "rms", "3", "normalised RMS error"
    OUTSIDE = "outside", "1-3", "differences outside the domain"
    EDGES = "edges", "", "differences in edge cases"
    DOUT = "dout", "4", "full against scalar dout: differences"
    PARTS = "parts", "4", "parts against whole: differences"
    RUNS = "runs", "4", "repeated runs: differences"
    THREADS = "threads", "4", "concurrent threads: differences"
    PATH = "path", "4", "differences"
    CENTRAL = "central differences", "6", "largest error against central differences"


@dataclass(frozen=True)
class Row:
    """Result of one check for one dtype.

    Attributes:
        dtype: Name of the element type.
        line: The check.
        figure: Measured value.
        limit: Allowed value.
        unit: Unit of figure and limit: "ULP", "%", or empty for counts and ratios.
        at_least: Whether the limit is a lower limit.
        note: Number of samples, or the worst case; one line per failure if there are several.
        path: Name of the path, for `Line.PATH`.
    """

    dtype: str
    line: Line
    figure: float
    limit: float
    unit: str = ""
    at_least: bool = False
    note: str = ""
    path: str = ""

    @property
    def passed(self) -> bool:
        """Whether the figure is within the limit; a NaN is not."""
        return self.figure >= self.limit if self.at_least else self.figure <= self.limit

    @property
    def measure(self) -> str:
        """Name of the check, for people."""
        return f"{self.path}: {self.line.measure}" if self.path else self.line.measure

    def __str__(self) -> str:
        relation = ">=" if self.at_least else "<="
        verdict = "ok  " if self.passed else "FAIL"
        text = f"{verdict} {self.dtype:9}{self.line.number:4}{self.measure}: {self.figure:.6g} {self.unit}"
        return f"{text} ({relation} {self.limit:.6g})  {self.note}".rstrip()


@dataclass(frozen=True)
class BarReport:
    """The verdict on one implementation.

    Attributes:
        rows: One for each check and dtype.
        cases: Checked calls.
        elements: Checked elements.
        duration_s: Wall time.
        left_out: Skipped elements, because the device saturates.
    """

    rows: tuple[Row, ...]
    cases: int
    elements: int
    duration_s: float
    left_out: int = 0

    @property
    def passed(self) -> bool:
        """Whether every row passed; False for a report without rows."""
        return bool(self.rows) and all(row.passed for row in self.rows)

    @property
    def failures(self) -> tuple[Row, ...]:
        """The rows that did not pass."""
        return tuple(row for row in self.rows if not row.passed)

    def as_dict(self) -> dict[str, Any]:
        """Returns the report as JSON values."""
        rows = [
            {
                "dtype": row.dtype,
                "line": row.line.value,
                "number": row.line.number,
                "measure": row.measure,
                # JSON has no infinity and no NaN.
                "figure": row.figure if math.isfinite(row.figure) else str(row.figure),
                "limit": row.limit,
                "at_least": row.at_least,
                "unit": row.unit,
                "passed": row.passed,
                "note": row.note,
            }
            for row in self.rows
        ]
        return {
            "passed": self.passed,
            "cases": self.cases,
            "elements": self.elements,
            "left_out": self.left_out,
            "duration_s": round(self.duration_s, 3),
            "rows": rows,
        }

    def __str__(self) -> str:
        return "\n".join(str(row) for row in self.rows)
