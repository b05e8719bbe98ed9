"""Demo: starts a server, computes gradients through the SDK, checks each against the formula in float64.

`make demo` runs it. It exits 0 only if every gradient is right, the metrics counted every request and the server ended
cleanly.
"""

from __future__ import annotations

import re
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
from rich.console import Console
from rich.table import Table

from demo_server import DemoServer
from mse_grad.tensor import Array, Reduction, dtype_of
from mse_grad_cli.conformance import golden, reference, same_bits, ulp_distance
from mse_grad_cli.conformance.tally import ULP_LIMIT
from mse_grad_client import MseGradClient

LETTERS = Path(__file__).parent / "data" / "letters.npz"
REDUCTIONS = ("none", "mean", "sum")
SAMPLE = re.compile(r"(?P<name>mse_grad_\w+)(?:\{(?P<labels>.*)\})? (?P<value>\S+)")
LABEL = re.compile(r'(\w+)="([^"]*)"')
LABELS_LEFT_OUT = ("dtype", "reduction", "kernel_hash")
METRICS = ("requests_total", "request_seconds_", "transferred_bytes_total", "elements_total", "ready", "build_info")
DTYPES = (np.dtype(np.float32), np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16))


class Operands(NamedTuple):
    """Three arrays of one shape and dtype."""

    predict: Array
    label: Array
    dout: Array

    @classmethod
    def random(cls, generator: np.random.Generator, shape: tuple[int, ...]) -> Operands:
        """Returns normally distributed float32."""
        return cls(*(generator.standard_normal(shape, dtype=np.float32) for _ in range(3)))

    def astype(self, dtype: np.dtype[Any]) -> Operands:
        """Returns the same numbers, rounded to `dtype`."""
        return Operands(*(array.astype(dtype) for array in self))


@dataclass(frozen=True)
class Case:
    """A gradient to request."""

    source: str
    operands: Operands
    reduction: str
    method: str = "compute"


@dataclass(frozen=True)
class Outcome:
    """The result of a case.

    Attributes:
        time_ms: Time of the call, in milliseconds.
        error_ulp: Largest distance from the formula in float64, in units in the last place, over the elements whose
            float32 intermediates are normal.
        allowed_ulp: Largest distance that the conformance suite allows.
        is_correct: Whether the distance is allowed, and every element has the bits of the contract.
    """

    time_ms: float
    error_ulp: int
    allowed_ulp: int
    is_correct: bool


def cases() -> Iterator[Case]:
    """Yields the cases of the demo: a file's arrays, random ones, and one tensor of 64 MiB."""
    letters = np.load(LETTERS)
    generator = np.random.default_rng(2024)
    inputs = {
        "letters.npz": Operands(letters["predict"], letters["label"], letters["dout"]),
        "random": Operands.random(generator, (1000, 1000)),
    }
    for source, operands in inputs.items():
        for dtype in DTYPES:
            for reduction in REDUCTIONS:
                yield Case(source, operands.astype(dtype), reduction)
            yield Case(source, operands.astype(dtype), "mean", "compute_unary")
    yield Case("random, 64 MiB", Operands.random(generator, (4096, 4096)), "mean")


def outcome_of(client: MseGradClient, case: Case) -> Outcome:
    """Computes the gradient on the server and checks it."""
    compute = client.compute_unary if case.method == "compute_unary" else client.compute
    start = time.perf_counter()
    y = compute(*case.operands, case.reduction)
    time_ms = 1000 * (time.perf_counter() - start)

    dtype, reduction = dtype_of(y.dtype, field="y"), Reduction.parse(case.reduction)
    predict, label, dout = (array.reshape(-1) for array in case.operands)
    expected = golden(predict, label, dout, reduction=reduction, dtype=dtype)
    contract = reference(predict, label, dout, reduction=reduction, dtype=dtype)
    found = y.reshape(-1)
    error_ulp = int(ulp_distance(found, expected)[contract.plain].max(initial=0))
    is_correct = (
        y.shape == case.operands.predict.shape
        and y.dtype == case.operands.predict.dtype
        and error_ulp <= ULP_LIMIT[dtype]
        and bool(same_bits(found, contract.y).all())
    )
    return Outcome(time_ms, error_ulp, ULP_LIMIT[dtype], is_correct)


def show_gradients(console: Console, client: MseGradClient, asked: Sequence[Case]) -> int:
    """Computes every case and prints a table; returns how many were wrong."""
    table = Table(title="Gradients from the server, against the formula in float64", title_justify="left")
    for heading in ("input", "shape", "dtype", "reduction", "method"):
        table.add_column(heading)
    for heading in ("time", "error", "allowed"):
        table.add_column(heading, justify="right")
    table.add_column("")
    wrong = 0
    previous = ""
    for case in asked:
        outcome = outcome_of(client, case)
        wrong += not outcome.is_correct
        group = f"{case.source} {case.operands.predict.dtype}"
        if previous not in ("", group):
            table.add_section()
        previous = group
        table.add_row(
            case.source,
            " x ".join(map(str, case.operands.predict.shape)),
            str(case.operands.predict.dtype),
            case.reduction,
            case.method,
            f"{outcome.time_ms:.1f} ms",
            f"{outcome.error_ulp} ULP",
            f"{outcome.allowed_ulp} ULP",
            "[green]ok[/]" if outcome.is_correct else "[red]WRONG[/]",
        )
    console.print(table)
    return wrong


def show_metrics(console: Console, url: str) -> int:
    """Prints the server's counters; returns how many requests it answered with a gradient."""
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # the server is on this host
    with direct.open(url, timeout=10) as answer:
        totals = totals_of(answer.read().decode())
    table = Table(title=f"The server's own metrics, from {url}", title_justify="left")
    table.add_column("metric")
    table.add_column("value", justify="right")
    for name, value in totals.items():
        table.add_row(name, f"{value:,.0f}" if value == int(value) else f"{value:,.3f}")
    console.print(table)
    answered = (value for name, value in totals.items() if name.startswith("mse_grad_requests_total{code=OK"))
    return int(sum(answered))


def totals_of(text: str) -> dict[str, float]:
    """Returns the `METRICS` that are not 0, summed over dtypes and reductions, without histogram buckets."""
    totals: dict[str, float] = {}
    for line in text.splitlines():
        sample = SAMPLE.fullmatch(line)
        if sample is None or sample["name"].endswith(("_bucket", "_created")) or float(sample["value"]) == 0:
            continue
        if not sample["name"].removeprefix("mse_grad_").startswith(METRICS):
            continue
        labels = [
            f"{key}={value}"
            for key, value in LABEL.findall(sample["labels"] or "")
            if value and key not in LABELS_LEFT_OUT
        ]
        name = sample["name"] + (f"{{{', '.join(labels)}}}" if labels else "")
        totals[name] = totals.get(name, 0.0) + float(sample["value"])
    return totals


def main() -> int:
    """Returns the exit code."""
    console = Console(width=None if sys.stdout.isatty() else 120)
    asked = list(cases())
    with DemoServer() as server:
        console.print(f"A server listens on {server.address} and computes on {server.device}.\n")
        with MseGradClient(server.address) as client:
            wrong = show_gradients(console, client, asked)
        console.print()
        answered = show_metrics(console, server.metrics_url)
        code = server.stop()
    console.print(f"\nThe server ended with exit code {code} after SIGTERM.")
    if wrong or answered != len(asked) or code:
        console.print(f"[red]{wrong} of {len(asked)} gradients were wrong, the server counted {answered}.[/] Its log:")
        console.print(server.log, markup=False, highlight=False)
        return 1
    console.print(f"[green]All {len(asked)} gradients are correct, and the server counted as many.[/]")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
