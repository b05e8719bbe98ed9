"""Every example runs."""

from __future__ import annotations

import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from support.server import ServerProcess

EXAMPLES = Path(__file__).parents[2] / "client" / "examples"


def run(*command: str | Path) -> str:
    ended = subprocess.run([sys.executable, *command], capture_output=True, text=True, timeout=100)
    assert ended.returncode == 0, f"{command} ended with {ended.returncode}:\n{ended.stdout}{ended.stderr}"
    return ended.stdout


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("quickstart.py", ("cpu", "float32", "float16", "bfloat16")),
        ("training.py", ("found 3.0", "-2.0")),
        ("errors.py", ("SHAPE_MISMATCH", "REDUCTION_UNKNOWN", "MESSAGE_TOO_LARGE")),
    ],
)
def test_an_example_runs_against_a_server(server: ServerProcess, name: str, words: tuple[str, ...]) -> None:
    output = run(EXAMPLES / name, server.address)
    assert [word for word in words if word not in output] == []


def test_the_demo_shows_every_gradient_and_that_it_held() -> None:
    output = run(EXAMPLES / "demo.py")
    assert output.count(" ok ") == 2 * 3 * (3 + 1) + 1
    assert "mse_grad_requests_total" in output
    assert "exit code 0" in output
    assert "All 25 gradients held" in output


def test_the_data_is_what_its_script_makes() -> None:
    script = runpy.run_path(str(EXAMPLES / "letters.py"))
    made = script["arrays_of"](script["letters_of"](script["TEXT"].read_text(encoding="utf-8")))
    with np.load(script["OUTPUT"]) as file:
        for name, array in zip(("predict", "label", "dout"), made, strict=True):
            assert array.tobytes() == file[name].tobytes()


def test_every_example_is_run_here() -> None:
    assert {path.name for path in EXAMPLES.glob("*.py")} == {
        "demo.py",
        "demo_server.py",
        "errors.py",
        "letters.py",
        "quickstart.py",
        "training.py",
    }
