"""The example of README.md, a kernel outside of the operator: its commands run as they stand there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from support.npu.simulator import ROOT

README = (ROOT / "tests/simulator/README.md").read_text(encoding="utf-8")
COMMANDS = re.search(r"## A kernel of your own\n.*?```sh\nmake simulator\n(.*?)```", README, re.DOTALL)
BARRIER = "        AscendC::PipeBarrier<PIPE_V>();\n"


def check(libraries: Path, kernel: Path, built: Path) -> subprocess.CompletedProcess[str]:
    """Runs the commands on another source, with another library to build."""
    assert COMMANDS is not None
    commands = COMMANDS[1].replace("tests/simulator/example/kernel.cpp", str(kernel))
    commands = commands.replace("build/example.so", str(built)).replace(".venv/bin/python", sys.executable)
    commands = commands.replace("build/simulator", str(libraries.relative_to(ROOT))).replace(
        "g++", os.environ.get("CXX") or "g++"
    )
    return subprocess.run(["sh", "-ec", commands], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture(autouse=True)
def _without_sanitizers() -> None:
    if "MSE_GRAD_TEST_SANITIZE" in os.environ:
        pytest.skip("the commands build without sanitizers")


def test_the_example_passes_the_bar_under_every_schedule(libraries: Path, tmp_path: Path) -> None:
    ended = check(libraries, ROOT / "tests/simulator/example/kernel.cpp", tmp_path / "example.so")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert ended.stdout.count("passed") == 5


def test_a_mistake_in_it_is_reported_with_its_case(libraries: Path, tmp_path: Path) -> None:
    source = (ROOT / "tests/simulator/example/kernel.cpp").read_text(encoding="utf-8")
    assert BARRIER in source
    broken = tmp_path / "kernel.cpp"
    broken.write_text(source.replace(BARRIER, "", 1), encoding="utf-8")
    ended = check(libraries, broken, tmp_path / "broken.so")
    assert ended.returncode == 1, ended.stdout + ended.stderr
    rule, case = ended.stdout.splitlines()
    assert "no PipeBarrier<PIPE_V> lies between them" in rule
    assert case.startswith("float32, normal data")
