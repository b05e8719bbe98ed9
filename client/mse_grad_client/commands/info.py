"""`mse-grad info`: what a server says about itself."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import click
from rich.table import Table

from mse_grad_client.commands.connection import access_options, connect, options_of, reached, wait_option
from mse_grad_client.commands.screen import screen
from mse_grad_client.info import Limits, ServerInfo

__all__ = ["info"]


@click.command()
@click.argument("address", metavar="ADDR")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@wait_option
@access_options
def info(address: str, as_json: bool, wait_s: float, **access: Any) -> None:
    """Show what the server at ADDR is, accepts and computes with."""
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
    table.add_row("dtypes", ", ".join(found.dtypes))
    numerics = found.numerics
    subnormals = "kept" if numerics.subnormals else "flushed to zero"
    table.add_row("numerics", f"{numerics.intermediate} inside, rounding {numerics.rounding}, subnormals {subnormals}")
    table.add_row("", "verified before it was ready" if numerics.verified else "not verified")
    for name, value in _limits(found.limits):
        table.add_row(name, value)
    return table


def _limits(limits: Limits) -> list[tuple[str, str]]:
    return [
        ("unary message", f"at most {_size(limits.max_unary_bytes)}"),
        ("stream message", f"at most {_size(limits.max_stream_message_bytes)}"),
        ("stream", f"{_size(limits.chunk_bytes)} of each operand in a chunk, {limits.window_chunks} chunks unanswered"),
        ("open requests", f"at most {limits.max_open_requests} on a stream"),
        ("in flight", f"at most {_size(limits.max_in_flight_bytes)}"),
    ]


def _size(size_bytes: int) -> str:
    for unit, factor in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if size_bytes >= factor:
            return f"{size_bytes / factor:g} {unit}"
    return f"{size_bytes} B"
