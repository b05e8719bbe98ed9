"""Measures gradients over every transport against plain grpcio, NumPy and (if installed) PyTorch; `make bench`.

Writes one JSON line a figure and shows a table. Only ratios within one run mean something: absolute times move by a
third between machines, and between two runs on a busy one.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.contenders import KERNEL, NUMPY, TORCH, TORCH_OUT, contenders
from benchmarks.operands import Operands
from benchmarks.rounds import Figure, measure
from benchmarks.targets import TARGETS
from mse_grad.tensor import BFLOAT16, FLOAT16, FLOAT32

SIZES = {"1K": 2**10, "64K": 2**16, "1M": 2**20, "16M": 2**24}
DTYPES = (FLOAT32, FLOAT16, BFLOAT16)
# On the wire bfloat16 is what float16 is; the kernels differ.
IN_PROCESS = (KERNEL, NUMPY, TORCH, TORCH_OUT)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the benchmark; returns 0 where every figure was had, whatever the ratios are."""
    parser = argparse.ArgumentParser(prog="make bench ARGS=...", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one round of the smallest size, to see that it works")
    parser.add_argument("--rounds", type=int, default=11, help="turns of each contender (default %(default)s)")
    parser.add_argument("--output", type=Path, default=Path("build/bench.jsonl"), help="JSON lines (%(default)s)")
    given = parser.parse_args(arguments)
    rounds, budget_s = (1, 0.0) if given.quick else (given.rounds, 0.1)
    sizes = {"1K": SIZES["1K"]} if given.quick else SIZES
    console = Console(width=None if sys.stdout.isatty() else 120)
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory() as folder, contenders(Path(folder)) as all_contenders:
        for size, elements in sizes.items():
            for dtype in DTYPES:
                participants = [one for one in all_contenders if dtype is not BFLOAT16 or one.key in IN_PROCESS]
                console.print(f"measuring {dtype.name} {size} ...", style="dim")
                operands = Operands.make(elements, dtype)
                figures += measure(participants, operands, rounds=rounds, round_budget_s=budget_s)
    given.output.parent.mkdir(parents=True, exist_ok=True)
    given.output.write_text("".join(json.dumps(figure.as_json()) + "\n" for figure in figures), encoding="utf-8")
    console.print(_table(figures, sizes))
    console.print(_ratios(figures))
    console.print(f"JSON lines: {given.output}", style="dim")
    return 0


def _table(figures: Sequence[Figure], sizes: dict[str, int]) -> Table:
    table = Table(title="median of a call; GB/s counts three operands and one gradient", title_justify="left")
    for heading in ("who", "transport", "dtype"):
        table.add_column(heading)
    for size in sizes:
        table.add_column(size, justify="right")
    cells: dict[tuple[str, str, str], dict[int, str]] = {}
    for figure in sorted(figures, key=lambda figure: [dtype.name for dtype in DTYPES].index(figure.dtype)):
        row = cells.setdefault((figure.dtype, figure.name, figure.transport), {})
        row[figure.elements] = f"{_duration(figure.p50_us)}\n[dim]{figure.gb_per_s:.2f} GB/s[/dim]"
    previous = ""
    for (dtype, name, transport), row in cells.items():
        if previous not in ("", dtype):
            table.add_section()
        previous = dtype
        table.add_row(name, transport, dtype, *(row.get(elements, "") for elements in sizes.values()))
    return table


def _ratios(figures: Sequence[Figure]) -> Table:
    table = Table(title="times as fast, and the target", title_justify="left")
    for heading in ("ours", "theirs", "dtype"):
        table.add_column(heading)
    for heading in ("elements", "ratio", "target"):
        table.add_column(heading, justify="right")
    for target in TARGETS:
        ratio = target.ratio(figures)
        verdict = "not measured" if ratio is None else f"{ratio:.2f}"
        style = None if ratio is None else "green" if ratio >= target.factor else "red"
        table.add_row(
            " ".join(target.ours),
            " ".join(target.theirs),
            target.dtype,
            f"{target.elements:,}",
            verdict,
            f"{target.factor}",
            style=style,
        )
    return table


def _duration(microseconds: float) -> str:
    return f"{microseconds:,.0f} us" if microseconds < 10_000 else f"{microseconds / 1000:,.1f} ms"


if __name__ == "__main__":
    raise SystemExit(main())
