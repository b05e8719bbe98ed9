"""Subcommand `doctor`: diagnosis of this client and of its path to a server."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mse_grad_cli.commands.connection import access_options, optional_address_argument, options_of
from mse_grad_cli.commands.options import json_option, timeout_option
from mse_grad_cli.commands.screen import screen
from mse_grad_cli.doctor import Finding, Level, examine_server, examine_software
from mse_grad_cli.doctor.software import missing_of_extra
from mse_grad_client.errors import MseGradError

__all__ = ["doctor"]

_STYLES = {Level.OK: "green", Level.WARNING: "yellow", Level.ERROR: "bold red"}


@click.command(short_help="Diagnose this client and its path to a server.")
@optional_address_argument
@json_option
@timeout_option("Time limit of each step towards the server")
@access_options
@click.pass_context
def doctor(
    context: click.Context,
    /,
    address: str | None,
    as_json: bool,
    timeout_s: float,
    **access: Any,
) -> None:
    """Find problems with this client and its path to a server, and say how to fix them.

    Checks the client's software and, if ADDR is given here or in MSE_GRAD_ADDR, the server there. `mse-grad-server
    doctor` checks the host of an NPU. Exits with 1 if there is an error, otherwise with 0.
    """
    report: dict[str, list[Finding]] = {"client": list(examine_software())}
    if address is not None:
        try:
            report[f"server at {address}"] = list(examine_server(address, options_of(**access, timeout_s=timeout_s)))
        except ValueError as wrong:
            raise click.BadParameter(str(wrong), param_hint="ADDR") from wrong
        except MseGradError as unusable:
            raise click.UsageError(str(unusable)) from unusable
    has_server = not missing_of_extra("server")
    worst = _worst(report)
    if as_json:
        findings = {
            name: [{**asdict(finding), "level": finding.level.value} for finding in found]
            for name, found in report.items()
        }
        click.echo(json.dumps({"verdict": worst.value, "server_installed": has_server, "findings": findings}, indent=2))
    else:
        _render(screen(), report)
        screen().print(_verdict(report, worst, has_server=has_server))
    context.exit(1 if worst is Level.ERROR else 0)


def _render(console: Console, report: Mapping[str, Sequence[Finding]]) -> None:
    for name, findings in report.items():
        console.print(Text(name, style="bold"))
        table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
        table.add_column(no_wrap=True)
        table.add_column(no_wrap=True)
        table.add_column(overflow="fold")
        for finding in findings:
            level = Text(finding.level.value, style=_STYLES[finding.level])
            table.add_row(level, finding.subject, Text(finding.text))
            if finding.advice:
                table.add_row("", "", Text(f"-> {finding.advice}", style="dim"))
        console.print(table)


def _verdict(report: Mapping[str, Sequence[Finding]], worst: Level, *, has_server: bool) -> Text:
    if worst is Level.OK:
        text = "No problems found."
    else:
        levels = [finding.level for found in report.values() for finding in found]
        errors, warnings = levels.count(Level.ERROR), levels.count(Level.WARNING)
        text = f"Errors: {errors}, warnings: {warnings}. Advice is below each."
    if has_server:
        text += " The server is installed here: mse-grad-server doctor checks this host."
    return Text(text, style=_STYLES[worst])


def _worst(report: Mapping[str, Sequence[Finding]]) -> Level:
    levels = {finding.level for findings in report.values() for finding in findings}
    return next(level for level in (Level.ERROR, Level.WARNING, Level.OK) if level in levels)
