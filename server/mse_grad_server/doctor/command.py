"""The command `mse-grad-server doctor`."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from mse_grad_server.backends.ascend.startup.libraries import TOOLKIT_FOLDERS, TOOLKIT_VARIABLES
from mse_grad_server.doctor.compiler import examine_compiler
from mse_grad_server.doctor.devices import bus_ids, device_files, examine_devices
from mse_grad_server.doctor.direct import examine_direct
from mse_grad_server.doctor.driver import driver_folder, examine_driver
from mse_grad_server.doctor.finding import Finding, Level
from mse_grad_server.doctor.toolkit import examine_toolkit
from mse_grad_server.process.exits import ExitCode, OutputError, StartError
from mse_grad_server.process.log import complain
from mse_grad_server.process.standard_streams import print_text
from mse_grad_server.settings.model import Settings
from mse_grad_server.settings.sources import parse_command

__all__ = ["examine_npu", "has_npu", "run"]

_NO_NPU = "This machine has no Ascend NPU and no driver for one; --backend ascend checks the rest anyway."


def run(arguments: Sequence[str], *, root: Path = Path("/")) -> ExitCode:
    """Prints the findings; returns FAILED if one of them is an error.

    Args:
        arguments: `--json`, and flags of the server.
        root: The folder that stands for "/" in the search for driver and devices.
    """
    parser = argparse.ArgumentParser(
        prog="mse-grad-server doctor",
        description="Checks this host for anything that keeps it from serving gradients, and says how to fix it. "
        "Computes nothing.",
        epilog="All other flags, the variables and the configuration file are those of mse-grad-server.",
        allow_abbrev=False,
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    own, flags = parser.parse_known_args(arguments)
    try:
        settings = parse_command(flags).settings
    except StartError as wrong:
        complain(str(wrong))
        return wrong.exit_code
    is_npu_host = settings.backend == "ascend" or has_npu(os.environ, root)
    findings = [*(examine_npu(settings, os.environ, root) if is_npu_host else ()), examine_direct(settings)]
    levels = {finding.level for finding in findings}
    worst = next((level for level in (Level.ERROR, Level.WARNING) if level in levels), Level.OK)
    if own.json:
        entries = [{**asdict(finding), "level": finding.level.value} for finding in findings]
        text = json.dumps({"verdict": worst.value, "npu_host": is_npu_host, "findings": entries}, indent=2)
    else:
        text = _rendered(findings, worst, is_npu_host=is_npu_host)
    try:
        print_text(f"{text}\n")
    except OutputError as error:
        complain(str(error))
        return error.exit_code
    return ExitCode.FAILED if worst is Level.ERROR else ExitCode.OK


def has_npu(environment: Mapping[str, str], root: Path) -> bool:
    """Returns whether this host has a trace of an NPU: a chip, a device file, a driver, a toolkit or a variable."""
    return bool(
        device_files(root)
        or bus_ids(root)
        or driver_folder(root).is_dir()
        or any((root / folder.lstrip("/")).is_dir() for folder in TOOLKIT_FOLDERS)
        or any(environment.get(name) for name in TOOLKIT_VARIABLES)
    )


def examine_npu(settings: Settings, environment: Mapping[str, str], root: Path) -> Iterator[Finding]:
    """Yields the findings about a host on which the server is to use an NPU."""
    yield from examine_devices(settings, environment, root)
    yield from examine_driver(root)
    yield from examine_toolkit(settings, environment, root)
    yield examine_compiler(environment)


def _rendered(findings: Sequence[Finding], worst: Level, *, is_npu_host: bool) -> str:
    width = max((len(finding.subject) for finding in findings), default=0)
    lines = []
    for finding in findings:
        lines.append(f"{finding.level.value:7}  {finding.subject:{width}}  {finding.text}")
        if finding.advice:
            lines.append(f"{'':7}  {'':{width}}  -> {finding.advice}")
    if not is_npu_host:
        lines.append(_NO_NPU)
    levels = [finding.level for finding in findings]
    errors, warnings = levels.count(Level.ERROR), levels.count(Level.WARNING)
    # The words of `mse-grad doctor`, which may not be installed here.
    verdict = f"Errors: {errors}, warnings: {warnings}. Advice is below each."
    return "\n".join([*lines, "No problems found." if worst is Level.OK else verdict])
