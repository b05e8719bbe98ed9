"""The SDK alone: a wheel without extras, in its own virtual environment, with the newest gRPC that there is."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from support.server.server_process import ServerProcess

ROOT = Path(__file__).parents[2]

PROGRAM = """
import asyncio, importlib.util, json, sys
import ml_dtypes
import numpy as np
from mse_grad_client import AsyncMseGradClient, ClientOptions, InvalidArgument, MseGradClient

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

async def computed(options):
    async with AsyncMseGradClient(sys.argv[1], options=options) as client:
        return await client.compute(x, x + 1, 0.5, "sum")

# By shared memory, direct connections and gRPC's stream.
answers = [y]
for options in (ClientOptions(), ClientOptions(shared_memory=False), ClientOptions(shared_memory=False, direct=False)):
    with MseGradClient(sys.argv[1], options=options) as client:
        answers += client.compute_many([(x, x + 1, 0.5)] * 20, "sum")
    answers.append(asyncio.run(computed(options)))
json.dump(
    {
        "answers": len(answers),
        "all_minus_one": all(bool((y == -1).all()) for y in answers),
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
        "answers": 64,
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
