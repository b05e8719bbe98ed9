"""The simulator, kernel/ and op_host/ are clean under address and undefined behaviour sanitizer."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from support.npu.simulator import ROOT, require_simulator
from support.tools import require_program

# These run every call of the libraries; the full bar and the casts of all floats would only run them longer.
TESTS = ("test_acl.py", "test_launch.py", "test_operator.py", "test_rules.py", "test_broken_operators.py")
RUNTIMES = ("libasan.so", "libubsan.so", "libstdc++.so")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_call_is_clean_under_sanitizers() -> None:
    require_simulator(sanitize=True)  # here, where the compiler itself runs without the sanitizers
    compiler = require_program("g++")
    paths = [_runtime(compiler, name) for name in RUNTIMES]
    folder = Path(__file__).parent
    # SIGFPE and guard pages are what some tests are about; Python itself leaks at its end.
    options = "detect_leaks=0:handle_sigfpe=0:allow_user_segv_handler=1"
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-m", "not slow", *(str(folder / name) for name in TESTS)],
        cwd=ROOT,
        env={**os.environ, "LD_PRELOAD": " ".join(paths), "ASAN_OPTIONS": options, "MSE_GRAD_TEST_SANITIZE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert " passed" in run.stdout


def _runtime(compiler: str, name: str) -> str:
    run = subprocess.run([compiler, f"-print-file-name={name}"], capture_output=True, text=True, check=True)
    return run.stdout.strip()
