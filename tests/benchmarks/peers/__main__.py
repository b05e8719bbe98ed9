"""Benchmark of gradients against other servers and clients, each in its own environment and process.

`make bench-peers`, or with `--preset bench` as `make bench`: only against plain grpcio, NumPy and (if installed)
PyTorch. All servers compute with the same kernel, so that only the transport differs. The first answer of every row is
compared with the formula: bit for bit, unless it is PyTorch's. Only ratios within one run mean something: absolute
times differ by a third between machines, and between two runs on a busy machine.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console

from benchmarks.peers import screen
from benchmarks.peers.adapters.operands import Operands
from benchmarks.peers.environments import PLOT, NotAvailable, python_of
from benchmarks.peers.figures import Absence, Figure
from benchmarks.peers.measure import Course, measure
from benchmarks.peers.participants import Participant, started
from benchmarks.peers.presets import PRESETS, Preset
from benchmarks.peers.rows import ROWS, Row
from benchmarks.peers.throughput import throughput
from mse_grad.tensor import DTYPES, Reduction
from support.values import expected, operands

SIZES = {"1K": 2**10, "64K": 2**16, "1M": 2**20, "16M": 2**24}
# Shares of the measuring time: a larger tensor takes longer, and each size needs enough calls.
WEIGHTS = {"1K": 1.0, "64K": 1.0, "1M": 1.5, "16M": 4.0}
PEERS = sorted({row.peer for row in ROWS})
DTYPE_NAMES = sorted({dtype for preset in PRESETS.values() for dtype in preset.dtypes})
# The size for the measurements with several clients and with several gradients in a call.
SMALL = "1K"
# Sizes for the table of processor time: a call has to be long beside the command that asks for it.
PROCESSOR_SIZES = ("1M", "16M")
# With "sum" every result is a normal number in every dtype; with "mean", float16 would measure the CPU's subnormals.
REDUCTION = Reduction.SUM
PLOT_SCRIPT = Path(__file__).with_name("plot.py")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the benchmark; returns 0 whatever the ratios are, and 1 if no row could be measured."""
    given = _arguments(arguments)
    console = Console(width=None if sys.stdout.isatty() else 150)
    sizes = {size: SIZES[size] for size in SIZES if size in given.sizes}
    rows = [row for row in PRESETS[given.preset].rows if row.peer in given.peers]
    figures, absences = _measure(rows, sizes, given, console)
    given.output.parent.mkdir(parents=True, exist_ok=True)
    lines = [*(figure.as_json() for figure in figures), *(absence.as_json() for absence in absences)]
    given.output.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    for dtype in given.dtypes:
        console.print(screen.time_table(figures, dtype, sizes))
    if SMALL in sizes:
        console.print(screen.rate_table(figures, SIZES[SMALL]))
    for size in PROCESSOR_SIZES:
        if size in sizes:
            console.print(screen.processor_table(figures, sizes[size]))
    console.print(screen.target_table(figures, rows))
    if absences:
        console.print(screen.absence_table(absences))
    releases = dict.fromkeys(f"{figure.name} {figure.version}" for figure in figures)
    console.print(f"releases: {', '.join(releases)}\nJSON lines: {given.output}", style="dim")
    if given.plot is not None:
        _plot(given.output, given.plot, console)
    return 0 if figures else 1


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench-peers ARGS=...", description=__doc__)
    parser.add_argument("--preset", choices=PRESETS, default="peers", help="rows and defaults (default %(default)s)")
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES), help="elements of each tensor")
    parser.add_argument("--dtypes", nargs="+", choices=DTYPE_NAMES, help="default: those of the preset")
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=PEERS, help="the adapters whose rows take part")
    parser.add_argument("--rounds", type=int, default=11, help="turns of each row (default %(default)s)")
    parser.add_argument("--clients", type=int, help="client processes at a time for the rate; default: the preset's")
    parser.add_argument("--budget-s", type=float, help="about how long to measure; default: the preset's")
    parser.add_argument("--output", type=Path, help="file for the figures, as JSON lines; default: the preset's")
    parser.add_argument("--plot", type=Path, help="write a picture of the times in float32 to this PNG")
    given = parser.parse_args(arguments)
    preset: Preset = PRESETS[given.preset]
    for name in ("dtypes", "clients", "budget_s", "output"):
        if getattr(given, name) is None:
            setattr(given, name, getattr(preset, name))
    return given


def _measure(
    rows: Sequence[Row], sizes: dict[str, int], given: argparse.Namespace, console: Console
) -> tuple[list[Figure], list[Absence]]:
    figures: list[Figure] = []
    runs: list[tuple[str, str, int]] = [(size, dtype, 1) for size in sizes for dtype in given.dtypes]
    if SMALL in sizes and "float32" in given.dtypes and given.clients > 1:
        runs.insert(len(given.dtypes), (SMALL, "float32", given.clients))
    console.print(f"making environments and starting {len(rows)} rows ...", style="dim")
    with tempfile.TemporaryDirectory(prefix="peers-") as name, started(rows, Path(name)) as (participants, absences):
        deadline = time.monotonic() + given.budget_s
        for number, (size, dtype, clients) in enumerate(runs):
            gone = {(absence.name, absence.transport) for absence in absences}
            able = [one for one in participants if one.row.key not in gone and _takes_part(one, size, dtype, clients)]
            if not able:
                continue
            course = Course(
                name=f"{size} {dtype}" + (f", {clients} clients" if clients > 1 else ""),
                elements=sizes[size],
                dtype=dtype,
                folder_of=_written_operands(Path(name), sizes[size], dtype, {one.row.items for one in able}),
                rounds=given.rounds,
                budget_s=_share(runs[number:]) * max(0.0, deadline - time.monotonic()),
            )
            console.print(f"measuring {course.name}, {len(able)} rows ...", style="dim")
            found, failed = measure(able, course) if clients == 1 else throughput(able, course, clients=clients)
            figures += found
            absences += failed
    return figures, absences


def _share(runs: Sequence[tuple[str, str, int]]) -> float:
    """Returns the share of the remaining time for the first of the remaining runs."""
    weights = [WEIGHTS[size] for size, _, _ in runs]
    return weights[0] / sum(weights)


def _takes_part(participant: Participant, size: str, dtype: str, clients: int) -> bool:
    row = participant.row
    if dtype not in row.dtypes or (row.most_elements is not None and SIZES[size] > row.most_elements):
        return False
    if clients > 1:
        return row.several_clients
    return row.items == 1 or (size, dtype) == (SMALL, "float32")


def _written_operands(folder: Path, elements: int, dtype: str, items: set[int]) -> Callable[[Row], Path]:
    (known,) = (one for one in DTYPES if one.name == dtype)
    for count in items:
        given = operands((elements * count,), known)
        target = _folder(folder, count)
        target.mkdir(exist_ok=True)
        Operands(*given, golden=expected(*given, REDUCTION.text)).save(target)
    return lambda row: _folder(folder, row.items)


def _folder(folder: Path, items: int) -> Path:
    return folder / f"operands-{items}"


def _plot(figures: Path, picture: Path, console: Console) -> None:
    try:
        python = python_of(PLOT)
    except NotAvailable as why:
        console.print(f"no picture, matplotlib is not available: {why}", style="red")
        return
    subprocess.run([python, str(PLOT_SCRIPT), str(figures), str(picture)], check=True)
    console.print(f"picture: {picture}", style="dim")


if __name__ == "__main__":
    raise SystemExit(main())
