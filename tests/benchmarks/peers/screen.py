"""The figures for people, as tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.table import Table

from benchmarks.peers.figures import Absence, Figure
from benchmarks.peers.goals import GOALS
from benchmarks.peers.roster import ROWS

__all__ = ["absence_table", "goal_table", "rate_table", "time_table"]


def time_table(figures: Sequence[Figure], dtype: str, sizes: Mapping[str, int]) -> Table:
    """Returns the median time of one client for each size."""
    table = _table(f"{dtype}: median of a call, and GB/s of three operands and one gradient", "who", "transport")
    table.caption = "tuned: with variables that tune malloc in the environment of client and server"
    for size in sizes:
        table.add_column(size, justify="right")
    measured = {
        (figure.key, figure.elements): figure
        for figure in figures
        if figure.dtype == dtype and figure.clients == 1 and figure.p50_us is not None
    }
    for row in ROWS:
        cells = [measured.get((row.key, elements)) for elements in sizes.values()]
        if row.items == 1 and any(cells):
            table.add_row(*row.key, *("" if cell is None else _time(cell) for cell in cells))
    return table


def rate_table(figures: Sequence[Figure], elements: int) -> Table:
    """Returns gradients a second of small tensors, by clients at a time."""
    counts = sorted({figure.clients for figure in figures})
    table = _table(f"float32, {elements} elements: gradients a second, by client processes", "who", "transport")
    for count in counts:
        table.add_column(str(count), justify="right")
    measured = {
        (figure.key, figure.clients): figure.gradients_per_s
        for figure in figures
        if (figure.elements, figure.dtype) == (elements, "float32")
    }
    for row in ROWS:
        rates = [measured.get((row.key, count)) for count in counts]
        if any(rates):
            table.add_row(*row.key, *("" if rate is None else f"{rate:,.0f}" for rate in rates))
    return table


def goal_table(figures: Sequence[Figure]) -> Table:
    """Returns the ratios that the goals are about."""
    table = _table("float32: ratios of medians; >= times as fast, <= times as long", "ours", "theirs")
    for heading in ("clients", "elements", "ratio", "goal"):
        table.add_column(heading, justify="right")
    for goal in GOALS:
        ratio = goal.ratio(figures)
        table.add_row(
            ", ".join(goal.ours),
            "its own p99 over p50" if goal.theirs is None else ", ".join(goal.theirs),
            str(goal.clients),
            f"{goal.elements:,}",
            "not measured" if ratio is None else f"{ratio:.2f}",
            goal.bound,
            style=None if ratio is None else "green" if goal.met(ratio) else "red",
        )
    return table


def absence_table(absences: Sequence[Absence]) -> Table:
    """Returns who has no figures, from when on and why."""
    table = _table("not available", "who", "transport", "since", "why")
    for absence in absences:
        table.add_row(absence.name, absence.transport, absence.during, absence.not_available)
    return table


def _table(title: str, *headings: str) -> Table:
    table = Table(title=title, title_justify="left")
    for heading in headings:
        table.add_column(heading)
    return table


def _time(figure: Figure) -> str:
    assert figure.p50_us is not None
    time = f"{figure.p50_us:,.0f} us" if 10 <= figure.p50_us < 10_000 else f"{figure.p50_us / 1000:,.1f} ms"
    if figure.p50_us < 10:
        time = f"{figure.p50_us:.1f} us"
    return f"{time} [dim]{figure.gb_per_s:.2f}[/dim]"
