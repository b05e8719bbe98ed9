"""The report of the bar as people read it."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from mse_grad_cli.commands.report import render, render_comparisons
from mse_grad_cli.conformance import BarReport, Comparison, Line, Row
from mse_grad_cli.conformance.expected import NAN_DISTANCE
from mse_grad_client.server_info import Limits, Numerics, ServerInfo

SERVER = ServerInfo(
    version="1.2.3",
    backend="cpu",
    device="avx2",
    kernel_hash="0123456789abcdef",
    instance_id="i",
    endpoints=(),
    dtypes=("float32", "float16"),
    limits=Limits(1, 2, 3, 4, 5, 6),
    numerics=Numerics("float32", subnormals=True, rounding="nearest-even", verified=True),
)
GOOD = (
    Row("float32", Line.ULP, 3, 4, "ULP", note="the worst case"),
    Row("float32", Line.RMS, 2.0**-24, 2.0**-22),
    Row("float16", Line.HALF_EQUAL, 99.9983, 99.5, "%", at_least=True),
    Row("float16", Line.PATH, 0, 0, path="unary"),
    Row("float64", Line.CENTRAL, 2.5e-15, 1e-9),
)
BAD = (
    Row("float16", Line.FALSE_ZEROS, 1234567, 0, note="normal data: element 0 is 0, not 1"),
    Row("float16", Line.RMS, float("nan"), 2.0**-11),
)


def rendered(*rows: Row, width: int = 120) -> list[str]:
    stream = io.StringIO()
    console = Console(file=stream, width=width, force_terminal=True, color_system=None, highlight=False)
    render(console, BarReport(rows, cases=1234, elements=12345, duration_s=1.25), address="h:1", server=SERVER)
    return stream.getvalue().splitlines()


def line_with(lines: list[str], text: str) -> str:
    (line,) = (line for line in lines if text in line)
    return " ".join(line.split())


def test_names_the_server_and_its_kernel() -> None:
    assert rendered(*GOOD)[0] == "h:1: mse-grad 1.2.3, cpu (avx2), kernel 0123456789ab"


def test_shows_number_measure_figure_limit_verdict_and_note_of_a_line() -> None:
    lines = rendered(*GOOD)
    assert line_with(lines, "largest distance") == "2 largest distance to golden 3 ULP ≤ 4 ULP ok the worst case"
    assert line_with(lines, "RMS") == "3 normalised RMS error 2^-24.0 ≤ 2^-22 ok"
    assert line_with(lines, "equal to") == "1 equal to golden 99.9983 % ≥ 99.5 % ok"
    assert line_with(lines, "unary") == "4 unary: differences 0 0 ok"
    assert line_with(lines, "central") == "6 largest error against central differences 2.5e-15 ≤ 1.0e-09 ok"


def test_names_each_dtype_once_above_its_lines() -> None:
    lines = [line.strip() for line in rendered(*GOOD)]
    assert [line for line in lines if line in ("float32", "float16", "float64")] == ["float32", "float16", "float64"]


def test_says_that_every_line_holds() -> None:
    assert rendered(*GOOD)[-1] == "All 5 checks passed: 1,234 calls, 12,345 elements, 1.2 s."


def test_repeats_failures_in_full_and_counts_them() -> None:
    lines = rendered(*GOOD, *BAD)
    assert line_with(lines, "float16: zeros") == "float16: zeros although golden is not 0: 1,234,567, allowed: 0"
    assert "  normal data: element 0 is 0, not 1" in lines
    assert line_with(lines, "float16: normalised") == "float16: normalised RMS error: nan, allowed: ≤ 2^-11"
    assert lines[-1] == "2 of 7 checks failed: 1,234 calls, 12,345 elements, 1.2 s."
    assert sum(" FAIL" in line for line in lines) == 2


@pytest.mark.parametrize("width", [80, 99])
def test_a_narrow_terminal_gets_the_figures_without_the_notes(width: int) -> None:
    lines = rendered(*GOOD, width=width)
    assert max(len(line) for line in lines) <= width
    assert line_with(lines, "largest distance") == "2 largest distance to golden 3 ULP ≤ 4 ULP ok"


def test_says_what_a_device_that_saturates_was_not_asked() -> None:
    stream = io.StringIO()
    report = BarReport(GOOD, cases=1, elements=2, duration_s=1.0, left_out=1234)
    render(Console(file=stream, width=120), report, address="h:1", server=SERVER)
    assert "The device saturates, so these were skipped: 1,234 elements and the edge cases" in stream.getvalue()


def test_shows_the_figures_of_a_peer_beside_those_of_the_server() -> None:
    stream = io.StringIO()
    compared = Comparison("float32", 5, 12345, 99.98765, distance_ulp=1, own_ulp=2, peer_ulp=NAN_DISTANCE)
    render_comparisons(Console(file=stream, width=120), [compared], peer="torch")
    lines = stream.getvalue().splitlines()
    assert lines[0].strip() == "Compared with torch; largest distances in ULP"
    assert line_with(lines, "float32") == "float32 12,345 99.99 % 1 2 NaN"
