"""The operator on NPU tensors, against the simulated runtime."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from support.npu.simulator import ROOT, require_simulator
from support.tools import require_module

pytestmark = [pytest.mark.slow, pytest.mark.one_python]

PROGRAM = Path(__file__).with_name("npu_program.py")
# dtypes x reductions x douts x shapes with elements; one of a private format; two with autograd
LAUNCHES = 3 * 3 * 2 * 5 + 1 + 2


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    require_module("torch")
    libraries = require_simulator()
    package = tmp_path_factory.mktemp("package")
    (package / "op_api" / "lib").mkdir(parents=True)
    (package / "op_api" / "lib" / "libcust_opapi.so").symlink_to(libraries / "libcust_opapi.so")
    environment = {
        **os.environ,
        "ASCEND_CUSTOM_OPP_PATH": str(package),
        "LD_LIBRARY_PATH": str(libraries),
        "PYTHONPATH": str(ROOT / "tests"),
    }
    command = [sys.executable, "-W", "error", str(PROGRAM), str(libraries)]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=100)
    assert run.returncode == 0, run.stdout + run.stderr
    parsed: dict[str, Any] = json.loads(run.stdout.splitlines()[-1])
    return parsed


def test_the_bits_are_those_of_the_cpu(found: dict[str, Any]) -> None:
    assert found["differing"] == []


def test_a_private_format_is_cast_before_the_launch(found: dict[str, Any]) -> None:
    assert found["private_format"] is True


def test_autograd_launches_on_the_npu_too(found: dict[str, Any]) -> None:
    assert found["gradients"] is True


def test_each_launch_asks_for_the_current_stream(found: dict[str, Any]) -> None:
    assert found["stream_reads"] == LAUNCHES


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("two devices", "label is on cpu, predict on npu:0; move one of them"),
        ("float64", "NotImplementedError: an NPU does not compute float64; it computes float32, float16, bfloat16"),
        ("a plan that the operator refuses", "aclnnMseLossGradPartGetWorkspaceSize failed with code"),
        ("no package", "no package in ASCEND_CUSTOM_OPP_PATH (not set) has the operator MseLossGradPart"),
        ("a package of another vendor", "no package in ASCEND_CUSTOM_OPP_PATH (/none) has the operator"),
    ],
)
def test_a_refusal_is_an_error_with_a_reason(found: dict[str, Any], name: str, words: str) -> None:
    assert words in found["refusals"][name]
