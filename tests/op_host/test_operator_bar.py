"""The single command for a host with the toolkit, run on a toolkit that builds the simulator's package."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from support.npu.simulator import ROOT, require_simulator
from support.npu.toolkit import executable, lay_out
from support.tools import require_program

# Installs into the given folder and writes the file that names the package, as the toolkit's installer does.
INSTALLER = """#!/bin/sh -e
package=${{1#--install-path=}}/vendors/mse_grad
mkdir -p "$package/bin" "$package/op_api"
ln -s {libraries} "$package/op_api/lib"
echo "export ASCEND_CUSTOM_OPP_PATH=$package:\\${{ASCEND_CUSTOM_OPP_PATH}}" > "$package/bin/set_env.bash"
"""
# Prints the variables of the package, then runs the Python of this test.
PYTHON = """#!/bin/sh
echo "package $ASCEND_CUSTOM_OPP_PATH"
exec {python} "$@"
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout with a virtual environment and nothing built, and beside it the folder of a toolkit."""
    libraries = require_simulator()
    root = tmp_path / "checkout"
    (root / "venv" / "bin").mkdir(parents=True)
    for name in ("Makefile", "pyproject.toml", "op_host", "kernel", "tests"):
        (root / name).symlink_to(ROOT / name)
    executable(root / "venv" / "bin" / "python", PYTHON.format(python=sys.executable))
    for stamp in ("made", "installed", "installed-test"):
        (root / "venv" / stamp).touch()
    lay_out(tmp_path / "cann")
    executable(tmp_path / "installer", INSTALLER.format(libraries=libraries))
    return root


def operator_bar(checkout: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs the command with the quick bar."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("ASCEND", "MAKE", "MFLAGS"))}
    command = [require_program("make"), "-C", str(checkout), "operator-bar", "VENV=venv", "ARGS=--quick"]
    return subprocess.run(command, env={**clean, **environment}, capture_output=True, text=True, check=False)


def test_one_command_builds_installs_and_names_the_package_and_runs_the_bar_on_it(checkout: Path) -> None:
    require_program("cmake")
    run = operator_bar(
        checkout,
        ASCEND_HOME_PATH=str(checkout.parent / "cann"),
        INSTALLER=str(checkout.parent / "installer"),
        LD_LIBRARY_PATH=str(require_simulator()),
    )
    assert run.returncode == 0, run.stdout + run.stderr
    package = checkout / "build" / "opp" / "vendors" / "mse_grad"
    assert f"package {package}:" in run.stdout
    for operator in ("MseLossGrad", "MseLossGradPart"):
        assert f"Ascend910B3, {operator} of build/opp/vendors/mse_grad/op_api/lib: " in run.stdout
    assert "ok   bfloat16" in run.stdout


def test_without_a_toolkit_the_command_says_what_is_needed(checkout: Path) -> None:
    require_program("cmake")
    run = operator_bar(checkout)
    assert run.returncode != 0
    assert "The operator package needs the CANN toolkit" in run.stderr


@pytest.mark.parametrize(("given", "found"), [((), "Release"), (("-DCMAKE_BUILD_TYPE=Debug",), "Debug")])
def test_the_package_is_built_for_release_by_default(checkout: Path, given: tuple[str, ...], found: str) -> None:
    folder = checkout.parent / "build"
    command = [require_program("cmake"), "-S", str(ROOT / "op_host"), "-B", str(folder), *given]
    variables = {**os.environ, "ASCEND_HOME_PATH": str(checkout.parent / "cann")}
    subprocess.run(command, env=variables, capture_output=True, check=True)
    assert f"CMAKE_BUILD_TYPE:STRING={found}\n" in (folder / "CMakeCache.txt").read_text()
