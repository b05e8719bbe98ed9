"""Conformance report on a terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mse_grad_cli.commands.screen import one_line
from mse_grad_cli.conformance import BarReport, Comparison, Row
from mse_grad_cli.conformance.expected import NAN_DISTANCE
from mse_grad_client.server_info import ServerInfo

__all__ = ["render", "render_comparisons"]

# Narrowest terminal whose table has room for the notes.
_NOTES_WIDTH = 100


def render(console: Console, report: BarReport, *, address: str, server: ServerInfo) -> None:
    """Prints a table of figures and limits, the details of failures, and the verdict."""
    head = f"{address}: mse-grad {server.version}, {server.backend} ({server.device}), kernel {server.kernel_hash[:12]}"
    console.print(Text(one_line(head)))
    console.print(_table(report, notes=console.width >= _NOTES_WIDTH))
    for row in report.failures:
        failed = f"{row.dtype}: {row.measure}: {_figure(row)}, allowed: {_limit(row)}"
        console.print(Text(failed, style="bold red"))
        for note in row.note.splitlines():
            console.print(Text(f"  {note}"))
    if report.left_out:
        skipped = f"{report.left_out:,} elements and the edge cases of infinity, NaN and overflow"
        console.print(Text(f"The device saturates, so these were skipped: {skipped}.", style="yellow"))
    console.print(_verdict(report))


def render_comparisons(console: Console, comparisons: Sequence[Comparison], *, peer: str) -> None:
    """Prints the figures of the server next to those of `peer`."""
    table = Table(title=f"Compared with {peer}; largest distances in ULP", title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("dtype", no_wrap=True)
    for heading in ("elements", "equal bits", "to each other", "server to golden", f"{peer} to golden"):
        table.add_column(heading, justify="right")
    for each in comparisons:
        figures = (each.distance_ulp, each.own_ulp, each.peer_ulp)
        distances = ("NaN" if figure == NAN_DISTANCE else f"{figure:,}" for figure in figures)
        table.add_row(each.dtype, f"{each.elements:,}", f"{each.equal_percent:.4g} %", *distances)
    console.print(table)


def _table(report: BarReport, *, notes: bool) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column("line", no_wrap=True)
    table.add_column("check", no_wrap=True)
    table.add_column("result", justify="right", no_wrap=True)
    table.add_column("limit", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    if notes:
        table.add_column("notes", style="dim")
    dtype = ""
    for row in report.rows:
        if row.dtype != dtype:
            table.add_section()
            table.add_row("", Text(row.dtype, style="bold"))
            dtype = row.dtype
        verdict = Text("ok", style="green") if row.passed else Text("FAIL", style="bold red")
        cells: list[str | Text] = [row.line.number, row.measure, _figure(row), _limit(row), verdict]
        if notes:
            cells.append(Text(row.note.partition("\n")[0], no_wrap=True, overflow="ellipsis"))
        table.add_row(*cells)
    return table


def _verdict(report: BarReport) -> Text:
    extent = f"{report.cases:,} calls, {report.elements:,} elements, {report.duration_s:.1f} s"
    if report.passed:
        return Text(f"All {len(report.rows)} checks passed: {extent}.", style="bold green")
    return Text(f"{len(report.failures)} of {len(report.rows)} checks failed: {extent}.", style="bold red")


def _figure(row: Row) -> str:
    if _is_small_power_of_two(row.limit) and 0 < row.figure < math.inf:
        return f"2^{math.log2(row.figure):.1f}"
    return _number(row.figure) + (f" {row.unit}" if row.unit else "")


def _limit(row: Row) -> str:
    if row.limit == 0:
        return "0"
    relation = "≥" if row.at_least else "≤"
    if _is_small_power_of_two(row.limit):
        return f"{relation} 2^{math.log2(row.limit):.0f}"
    return f"{relation} {_number(row.limit)}" + (f" {row.unit}" if row.unit else "")


def _is_small_power_of_two(value: float) -> bool:
    return value < 0.1 and math.frexp(value)[0] == 0.5


def _number(value: float) -> str:
    if not math.isfinite(value) or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.1e}" if value < 0.001 else f"{value:.6g}"
