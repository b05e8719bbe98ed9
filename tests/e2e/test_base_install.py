"""The SDK alone: a wheel without extras, in its own virtual environment."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from support.server.server_process import ServerProcess

ROOT = Path(__file__).parents[2]

PROGRAM = """
import importlib.util, json, sys
import ml_dtypes
import numpy as np
from mse_grad_client import InvalidArgument, MseGradClient

NOT_OURS = ("structlog", "pydantic", "prometheus_client")
x = np.arange(100_000, dtype=np.float32)
with MseGradClient(sys.argv[1]) as client:
    y = client.compute(x, x + 1, 0.5, "sum")
    half = client.compute(x.astype(ml_dtypes.bfloat16), x.astype(ml_dtypes.bfloat16), 1.0)
    try:
        client.compute(x, x[:-1], 1.0)
        refused = ""
    except InvalidArgument as error:
        refused = error.reason.value
json.dump(
    {
        "all_minus_one": bool((y == -1).all()),
        "dtype": str(half.dtype),
        "refused": refused,
        "server_loaded": any(name.startswith("mse_grad_server") for name in sys.modules),
        "server_needs": [name for name in NOT_OURS if importlib.util.find_spec(name)],
    },
    sys.stdout,
)
"""


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_base_install_computes_against_a_running_server(server: ServerProcess, tmp_path: Path) -> None:
    python = tmp_path / "venv" / "bin" / "python"
    run(sys.executable, "-m", "build", "--wheel", "--outdir", tmp_path, ROOT)
    (wheel,) = tmp_path.glob("*.whl")
    run(sys.executable, "-m", "venv", tmp_path / "venv")
    run(python, "-m", "pip", "install", "--quiet", wheel)
    found = json.loads(run(python, "-I", "-c", PROGRAM, server.address))
    assert found == {
        "all_minus_one": True,
        "dtype": "bfloat16",
        "refused": "SHAPE_MISMATCH",
        "server_loaded": False,
        "server_needs": [],
    }


def run(*command: str | Path) -> str:
    ended = subprocess.run(command, capture_output=True, text=True, timeout=500)
    assert ended.returncode == 0, f"{command} ended with {ended.returncode}:\n{ended.stdout}{ended.stderr}"
    return ended.stdout
