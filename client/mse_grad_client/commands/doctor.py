"""`mse-grad doctor`: what stands between this machine and a gradient."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mse_grad_client.commands.connection import access_options, options_of
from mse_grad_client.commands.screen import screen
from mse_grad_client.doctor import Finding, Host, Level, examine_npu, examine_server, examine_software
from mse_grad_client.doctor.npu import has_npu
from mse_grad_client.errors import MseGradError

__all__ = ["doctor"]

_STYLES = {Level.OK: "green", Level.WARNING: "yellow", Level.ERROR: "bold red"}


@click.command()
@click.argument("address", metavar="[ADDR]", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option(
    "--npu/--no-npu", default=None, help="Whether this is to be the host of an NPU.  [default: look for traces of one]"
)
@click.option(
    "--root",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default=Path("/"),
    help="Folder to take for / of the NPU's host, such as an unpacked image.",
)
@click.option(
    "--timeout-s",
    type=click.FloatRange(min=0, min_open=True),
    default=5.0,
    show_default=True,
    help="Bound on each step towards the server, in seconds.",
)
@access_options
@click.pass_context
def doctor(
    context: click.Context,
    /,
    address: str | None,
    as_json: bool,
    npu: bool | None,
    root: Path,
    timeout_s: float,
    **access: Any,
) -> None:
    """Look for what keeps this machine from gradients, and say the way out.

    Looks at the client's software, at the server at ADDR where one is named, and at drivers, toolkit, operator package
    and devices where this is the host of an NPU. Computes nothing on an NPU itself. Exits with 0 unless there is an
    error, else with 1.
    """
    host = Host.of_this_process(root)
    report: dict[str, list[Finding]] = {"client": list(examine_software())}
    if address is not None:
        try:
            report[f"server at {address}"] = list(examine_server(address, options_of(**access, timeout_s=timeout_s)))
        except ValueError as wrong:
            raise click.BadParameter(str(wrong), param_hint="ADDR") from wrong
        except MseGradError as unusable:
            raise click.UsageError(str(unusable)) from unusable
    is_npu_host = has_npu(host) if npu is None else npu
    if is_npu_host:
        report["host of an NPU"] = list(examine_npu(host))
    worst = _worst(report)
    if as_json:
        findings = {
            name: [{**asdict(finding), "level": finding.level.value} for finding in found]
            for name, found in report.items()
        }
        click.echo(json.dumps({"verdict": worst.value, "npu_host": is_npu_host, "findings": findings}, indent=2))
    else:
        _render(screen(), report)
        screen().print(_verdict(report, worst, is_npu_host=is_npu_host))
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


def _verdict(report: Mapping[str, Sequence[Finding]], worst: Level, *, is_npu_host: bool) -> Text:
    if worst is Level.OK:
        text = "All is well."
    else:
        levels = [finding.level for found in report.values() for finding in found]
        errors, warnings = levels.count(Level.ERROR), levels.count(Level.WARNING)
        text = f"Errors: {errors}, warnings: {warnings}; the way out stands below each."
    if not is_npu_host:
        text += " This machine shows no Ascend NPU and no driver for one; a client needs none."
    return Text(text, style=_STYLES[worst])


def _worst(report: Mapping[str, Sequence[Finding]]) -> Level:
    levels = {finding.level for findings in report.values() for finding in findings}
    return next(level for level in (Level.ERROR, Level.WARNING, Level.OK) if level in levels)
