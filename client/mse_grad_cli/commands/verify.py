"""Subcommand `verify`: conformance checks of a running server."""

from __future__ import annotations

import json
from contextlib import ExitStack
from dataclasses import asdict
from typing import Any

import click
from rich.console import Console

from mse_grad.tensor import DTYPES, Array
from mse_grad_cli.commands.connection import access_options, address_argument, connect, options_of, reached, wait_option
from mse_grad_cli.commands.options import json_option
from mse_grad_cli.commands.paths import open_paths
from mse_grad_cli.commands.peer import PEERS, peer_compute, peer_dtypes
from mse_grad_cli.commands.report import render, render_comparisons
from mse_grad_cli.commands.screen import screen
from mse_grad_cli.conformance import BarReport, Case, Comparison, Dout, compare, run_bar
from mse_grad_client.client import MseGradClient
from mse_grad_client.server_info import ServerInfo

__all__ = ["verify"]


@click.command(short_help="Check a server against the numerical contract.")
@address_argument
@json_option
@click.option("--quick", is_flag=True, help="Run fewer large shapes and repetitions.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of the random operands.")
@click.option(
    "--against",
    type=click.Choice(PEERS),
    help="Also compare with PyTorch's own gradient, on an NPU or the CPU.",
)
@wait_option
@access_options
@click.pass_context
def verify(
    context: click.Context,
    /,
    address: str,
    as_json: bool,
    quick: bool,
    seed: int,
    against: str | None,
    wait_s: float,
    **access: Any,
) -> None:
    """Check the server at ADDR against the numerical contract (docs/numerics.md) and print a report.

    The column "line" of the report is the line of the contract, and its notes name the worst case.
    Skips infinity, NaN and overflow on a device that saturates (Atlas 200I/500 A2, or any device in saturation mode).
    Shows PyTorch's gradient only for comparison: for 16-bit types PyTorch rounds more often than the contract allows.
    Exits with 0 if every check passes, 1 if a check fails, 3 if the server does not answer.
    """
    peer = peer_compute(against) if against else None
    comparisons: list[Comparison] = []
    with connect(address, options_of(**access)) as client, reached(client, wait_s=wait_s) as found:
        report = _run(client, found, quick=quick, seed=seed)
        if against and peer:
            dtypes = [dtype for dtype in peer_dtypes(against) if dtype.name in found.dtypes]
            comparisons = compare(client.compute, peer, dtypes=dtypes, seed=seed, quick=quick)
    if as_json:
        settings = {"address": address, "quick": quick, "seed": seed}
        compared = {"against": {against: [asdict(each) for each in comparisons]}} if against else {}
        click.echo(json.dumps({**settings, "server": asdict(found), **report.as_dict(), **compared}, indent=2))
    else:
        render(screen(), report, address=address, server=found)
        if against:
            render_comparisons(screen(), comparisons, peer=against)
    context.exit(0 if report.passed else 1)


def _run(client: MseGradClient, found: ServerInfo, *, quick: bool, seed: int) -> BarReport:
    dtypes = [dtype for dtype in DTYPES if dtype.name in found.dtypes]
    console = Console(stderr=True)
    with ExitStack() as stack:
        status = stack.enter_context(console.status("")) if console.is_terminal else None

        def show(case: Case) -> None:
            if status:
                status.update(f"{case.dtype.name}: {case}")

        def part(predict: Array, label: Array, dout: Dout, reduction: str, numel: int) -> Array:
            return client.compute(predict, label, dout, reduction, numel=numel)

        return run_bar(
            client.compute,
            dtypes=dtypes,
            part=part,
            paths=open_paths(client, found, stack),
            lengths=sorted({found.limits.chunk_bytes // dtype.itemsize_bytes for dtype in dtypes}),
            seed=seed,
            quick=quick,
            finite_only=found.numerics.overflow_mode == "saturation",
            on_case=show,
        )
