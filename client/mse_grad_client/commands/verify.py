"""`mse-grad verify`: holds a running server against the numerical bar."""

from __future__ import annotations

import json
from contextlib import ExitStack
from dataclasses import asdict
from typing import Any

import click
from rich.console import Console

from mse_grad.tensor import DTYPES, Array
from mse_grad_client.bar import BarReport, Case, Comparison, Dout, compare, run_bar
from mse_grad_client.client import MseGradClient
from mse_grad_client.commands.connection import access_options, connect, options_of, reached, wait_option
from mse_grad_client.commands.paths import open_paths
from mse_grad_client.commands.peer import PEERS, peer_compute, peer_dtypes
from mse_grad_client.commands.report import render, render_comparisons
from mse_grad_client.commands.screen import screen
from mse_grad_client.info import ServerInfo

__all__ = ["verify"]


@click.command()
@click.argument("address", metavar="ADDR")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--quick", is_flag=True, help="Fewer large shapes and repeated runs.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of the data.")
@click.option(
    "--against",
    type=click.Choice(PEERS),
    help="Show PyTorch's own gradient next to it, on an NPU or the CPU.",
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
    """Hold the server at ADDR against the numerical contract and print the figures.

    What PyTorch computes is compared and not judged: in 16 bits it rounds more often than the contract.
    Exits with 0 where every line holds, 1 where one does not, 3 where the server gave no verdict.
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
            on_case=show,
        )
