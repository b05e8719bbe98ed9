"""Server processes on each backend: on the CPU, and on the simulated NPU, whose accounts must balance at the end."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from support.npu.runtime import Accounts
from support.npu.simulator import require_simulator
from support.server.server_process import ServerProcess, running_server

__all__ = ["EACH_BACKEND", "ascend_flags", "running_on"]

# Runs on NPUs repeat tests of the CPU, and the backend's own tests run on every Python: one Python is enough here.
EACH_BACKEND = ("cpu", pytest.param("ascend", marks=pytest.mark.one_python))
"""The parameters of a fixture, for `running_on`."""


def ascend_flags() -> tuple[str, ...]:
    """Returns the flags of a server on the simulated NPU; builds the simulator if it is not up to date."""
    libraries = require_simulator()
    op_library = str(libraries / "libcust_opapi.so")
    return ("--backend", "ascend", "--ascend-runtime-folder", str(libraries), "--ascend-op-library", op_library)


@contextmanager
def running_on(
    backend: str, *arguments: str, environment: Mapping[str, str] | None = None, **options: Any
) -> Iterator[ServerProcess]:
    """`running_server` on a backend.

    Args:
        backend: "cpu" or "ascend".
        arguments: See `running_server`.
        environment: See `running_server`.
        options: See `running_server`.
    """
    if backend == "cpu":
        with running_server(*arguments, environment=environment, **options) as server:
            yield server
        return
    with TemporaryDirectory() as folder:
        report = Path(folder, "accounts")
        variables = {**(environment or {}), "ASCEND_SIMULATOR_ACCOUNTS": str(report)}
        with running_server(*ascend_flags(), *arguments, environment=variables, **options) as server:
            yield server
        if server.process.returncode != 0:
            return  # the test killed it
        accounts = Accounts.parse(report.read_text())
        assert not any(accounts.living.values()), accounts.living
        assert accounts.violations == []
