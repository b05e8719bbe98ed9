"""Subcommand `info`: version, backend, workers, numerical properties and limits of a server."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import click
from rich.table import Table

from mse_grad_cli.commands.connection import access_options, address_argument, connect, options_of, reached, wait_option
from mse_grad_cli.commands.options import json_option
from mse_grad_cli.commands.screen import screen, size_text
from mse_grad_client.server_info import Limits, ServerInfo

__all__ = ["info"]


@click.command(short_help="Show version, workers and limits of a server.")
@address_argument
@json_option
@wait_option
@access_options
def info(address: str, as_json: bool, wait_s: float, **access: Any) -> None:
    """Show version, backend, workers, numerical properties and limits of the server at ADDR."""
    with connect(address, options_of(**access)) as client, reached(client, wait_s=wait_s) as found:
        if as_json:
            click.echo(json.dumps(asdict(found), indent=2))
            return
        screen().print(_table(address, found))


def _table(address: str, found: ServerInfo) -> Table:
    table = Table(
        title=f"mse-grad server at {address}", title_justify="left", show_header=False, box=None, padding=(0, 2)
    )
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row("version", found.version)
    table.add_row("backend", f"{found.backend}, {found.device}")
    table.add_row("kernel", found.kernel_hash)
    table.add_row("instance", found.instance_id)
    for endpoint in found.endpoints:
        table.add_row("worker", f"{endpoint.address}  {endpoint.device}  {endpoint.state}")
    table.add_row("transport", found.transport.replace("_", " "))
    if found.direct_failure:
        table.add_row("", f"no direct connection: {found.direct_failure}")
    table.add_row("dtypes", ", ".join(found.dtypes))
    numerics = found.numerics
    subnormals = "kept" if numerics.subnormals else "flushed to zero"
    arithmetic = f"{numerics.intermediate} intermediates, rounding {numerics.rounding}, subnormals {subnormals}"
    table.add_row("numerics", arithmetic)
    edges = {"infinities": numerics.infinities, "NaN": numerics.nans, "overflow": numerics.overflow}
    found_edges = ", ".join(
        f"{name} {'as IEEE 754' if held else 'differs'}" for name, held in edges.items() if held is not None
    )
    table.add_row(
        "", f"overflow mode {numerics.overflow_mode.replace('_', '/')}{f': {found_edges}' if found_edges else ''}"
    )
    table.add_row("", "verified at startup" if numerics.verified else "not verified")
    for name, value in _limits(found.limits):
        table.add_row(name, value)
    return table


def _limits(limits: Limits) -> list[tuple[str, str]]:
    return [
        ("unary message", f"at most {size_text(limits.max_unary_bytes)}"),
        ("stream message", f"at most {size_text(limits.max_stream_message_bytes)}"),
        (
            "stream",
            f"{size_text(limits.chunk_bytes)} of each operand per chunk, {limits.window_chunks} unanswered chunks",
        ),
        ("open requests", f"at most {limits.max_open_requests} per stream"),
        ("in flight", f"at most {size_text(limits.max_in_flight_bytes)}"),
    ]
