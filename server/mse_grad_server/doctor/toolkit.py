"""Check of the toolkit and the operator package, found and loaded as the server does."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from mse_grad_server.backends.ascend.startup.diagnosis import check_environment, require_device
from mse_grad_server.backends.ascend.startup.libraries import (
    TOOLKIT_VARIABLES,
    find_op_library,
    find_runtime,
    find_version,
    listed_vendors,
    op_libraries,
)
from mse_grad_server.backends.ascend.startup.survey import survey
from mse_grad_server.doctor.driver import examine_fit
from mse_grad_server.doctor.finding import Finding, error, ok, refusal, warning
from mse_grad_server.process.exits import StartError
from mse_grad_server.settings.model import Settings

__all__ = ["examine_toolkit"]

# The symbol of an operator of this name, ours or another vendor's.
_SAME_NAME = b"aclnnMseLossGrad"
# Folders that CANN writes to: logs, compiled kernels, work files.
_WRITTEN = ("ASCEND_PROCESS_LOG_PATH", "ASCEND_CACHE_PATH", "ASCEND_WORK_PATH")


def examine_toolkit(settings: Settings, environment: Mapping[str, str], root: Path) -> Iterator[Finding]:
    """Yields the findings about the toolkit, the operator package and the variables that lead to them.

    Args:
        settings: Settings of the server.
        environment: Variables of the process.
        root: The folder that stands for "/" in the search for the driver.
    """
    yield from _examine_variables(environment)
    try:
        runtime, _ = find_runtime(settings.ascend_runtime_folder, environment)
    except StartError as why:
        yield refusal("toolkit", why)
        return
    yield ok("toolkit", f"CANN {find_version(runtime)}, {runtime}")
    yield from examine_fit(root, runtime)
    found = survey(
        settings.ascend_runtime_folder, settings.ascend_op_library, environment, timeout_s=settings.device_hang_s
    )
    if found.runtime is not None:
        yield refusal("runtime", found.runtime)
    else:
        yield ok("runtime", f"{runtime} loads")
    try:
        opapi = find_op_library(settings.ascend_op_library, environment, runtime=runtime)
    except StartError as why:
        yield refusal("operator package", why)
    else:
        if found.operator is not None:
            yield refusal("operator package", found.operator)
        elif found.runtime is None:
            yield ok("operator package", f"{opapi} loads")
        yield from _examine_neighbours(opapi, environment, runtime)
    if found.devices is not None:
        yield _examine_count(settings, found.devices)


def _examine_variables(environment: Mapping[str, str]) -> Iterator[Finding]:
    try:
        check_environment(environment)
    except StartError as why:
        yield refusal("environment", why)
    for name in (*TOOLKIT_VARIABLES, "ASCEND_OPP_PATH", "ASCEND_CUSTOM_OPP_PATH"):
        folders = [folder for folder in environment.get(name, "").split(":") if folder]
        gone = [folder for folder in folders if not Path(folder).is_dir()]
        if gone:
            yield error(
                name,
                f"names {', '.join(gone)}, which {'do' if len(gone) > 1 else 'does'} not exist",
                "source the set_env.sh of the installed version",
            )
        elif folders:
            yield ok(name, ":".join(folders))
    for name in _WRITTEN:
        if environment.get(name):
            yield _examine_written(name, Path(environment[name]))


def _examine_written(name: str, folder: Path) -> Finding:
    existing = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    try:
        with tempfile.TemporaryFile(dir=existing):
            return ok(name, str(folder))
    except OSError:
        return warning(name, f"{folder} is not writable", "name a folder of the server's user, e.g. on a tmpfs")


def _examine_neighbours(opapi: Path, environment: Mapping[str, str], runtime: Path) -> Iterator[Finding]:
    """Yields findings about other packages with an operator of this name, and a config.ini that omits our package."""
    for other in op_libraries(environment, runtime=runtime):
        if other.is_file() and not other.samefile(opapi) and _SAME_NAME in other.read_bytes():
            yield warning(
                "other packages",
                f"{other} has an operator of this name too",
                "remove it, or make sure that no other program finds the wrong one",
            )
    package = opapi.parents[2]
    named = [Path(folder) for folder in environment.get("ASCEND_CUSTOM_OPP_PATH", "").split(":") if folder]
    listed = listed_vendors(package.parent)
    if package.parent.name == "vendors" and listed and package.name not in listed and package not in named:
        yield warning(
            "config.ini",
            f"{package.parent / 'config.ini'} does not name {package.name}",
            f"programs beside this server find its kernels only after: source {package}/bin/set_env.bash",
        )


def _examine_count(settings: Settings, devices: int | StartError) -> Finding:
    if isinstance(devices, StartError):
        return refusal("NPUs of a process", devices)
    try:
        for number in settings.device_numbers or (settings.device,):
            require_device(number, devices)
    except StartError as why:
        return refusal("NPUs of a process", why)
    return ok("NPUs of a process", f"{devices}, as the runtime says")
