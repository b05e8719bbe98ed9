"""Tables of the figures, for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.table import Table

from benchmarks.peers.figures import Absence, Figure
from benchmarks.peers.rows import ROWS, Row
from benchmarks.peers.targets import TARGETS

__all__ = ["absence_table", "processor_table", "rate_table", "target_table", "time_table"]


def time_table(figures: Sequence[Figure], dtype: str, sizes: Mapping[str, int]) -> Table:
    """Returns the median time of one client for each size."""
    table = _table(f"{dtype}: median of a call, and GB/s of three operands and one gradient", "row", "transport")
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
    """Returns gradients per second of small tensors, by the number of clients at a time."""
    counts = sorted({figure.clients for figure in figures})
    table = _table(f"float32, {elements} elements: gradients a second, by client processes", "row", "transport")
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


def processor_table(figures: Sequence[Figure], elements: int) -> Table:
    """Returns the processor time of client and server for a gigabyte, which counts where the network is fast."""
    title = f"float32, {elements:,} elements: seconds of processor time for 1e9 bytes of operands and gradient"
    table = _table(title, "row", "transport")
    table.caption = "the server's with its kernel"
    for heading in ("client", "server", "both"):
        table.add_column(heading, justify="right")
    for row in ROWS:
        for figure in figures:
            if (figure.key, figure.elements, figure.dtype) == (row.key, elements, "float32"):
                client_s, server_s = figure.client_s_per_gb, figure.server_s_per_gb
                if client_s is not None and server_s is not None:
                    table.add_row(*row.key, f"{client_s:.2f}", f"{server_s:.2f}", f"{client_s + server_s:.2f}")
    return table


def target_table(figures: Sequence[Figure], rows: Sequence[Row]) -> Table:
    """Returns the ratios that have targets, for the rows that take part."""
    keys = {None, *(row.key for row in rows)}
    table = _table("ratios of medians; >= times as fast, <= times as long", "ours", "theirs", "dtype")
    for heading in ("clients", "elements", "ratio", "target"):
        table.add_column(heading, justify="right")
    for target in TARGETS:
        if target.ours not in keys or target.theirs not in keys:
            continue
        ratio = target.ratio(figures)
        table.add_row(
            ", ".join(target.ours),
            "its own p99 over p50" if target.theirs is None else ", ".join(target.theirs),
            target.dtype,
            str(target.clients),
            f"{target.elements:,}",
            "not measured" if ratio is None else f"{ratio:.2f}",
            target.bound,
            style=None if ratio is None else "green" if target.met(ratio) else "red",
        )
    return table


def absence_table(absences: Sequence[Absence]) -> Table:
    """Returns the rows without figures, the time from which they have none, and the reason."""
    table = _table("not available", "row", "transport", "since", "why")
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
