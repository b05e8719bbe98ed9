"""The C++ example, built with its own CMake file, against the simulator instead of the toolkit."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from support.npu.simulator import require_simulator
from support.tools import require_program

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program, in the folders of a host with the toolkit and the installed package."""
    cmake = require_program("cmake")
    libraries = require_simulator()
    host = tmp_path_factory.mktemp("host")
    api = host / "opp" / "vendors" / "mse_grad" / "op_api"
    for folder, content in {
        host / "cann" / "include": ROOT / "tests" / "simulator" / "include",
        host / "cann" / "lib64": libraries,
        api / "include": libraries / "generated",
        api / "lib": libraries,
    }.items():
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.symlink_to(content)
    environment = {**os.environ, "ASCEND_HOME_PATH": str(host / "cann"), "ASCEND_OPP_PATH": str(host / "opp")}
    for command in (
        [cmake, "-S", str(ROOT / "op_host" / "examples"), "-B", str(host / "build"), "-DCMAKE_CXX_FLAGS=-Werror"],
        [cmake, "--build", str(host / "build")],
    ):
        run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert run.returncode == 0, run.stdout + run.stderr
    return host / "build" / "mse_loss_grad_example"


@pytest.mark.parametrize("chip", ["Ascend910B3", "Ascend310B1"])
def test_example_computes_every_gradient_and_ends_cleanly(example: Path, chip: str) -> None:
    environment = {**os.environ, "ASCEND_SIMULATOR_CHIP": chip}
    run = subprocess.run([example], env=environment, capture_output=True, text=True, check=False)
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout == f"{chip}: 16384 of 16384 gradients equal the formula\n"
