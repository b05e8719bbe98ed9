"""Unmodified clients of the Open Inference Protocol against a real server, each in an environment of its own."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from benchmarks.peers.environments import python_of
from mse_grad.tensor import Array
from mse_grad_client import MseGradClient
from support.server.server_process import ServerProcess
from support.tools import require_libraries, require_program

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

SCRIPTS = Path(__file__).parents[1] / "support" / "open_inference_clients"
CLIENT_TIMEOUT_S = 300
BUF = "@bufbuild/buf@1.75.0"
DTYPES: dict[str, type[np.generic]] = {
    "FP32": np.float32,
    "FP16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "FP64": np.float64,
}
SHAPES = ((1,), (7,), (3, 5), (1000,), (64, 1024))


@pytest.fixture(scope="module")
def cases() -> dict[str, Array]:
    """Operands by case, as float32 whose values the datatype of the case holds exactly."""
    random = np.random.default_rng(15)
    found: dict[str, Array] = {}
    for datatype, dtype in DTYPES.items():
        for reduction in ("mean", "sum", "none"):
            for number, shape in enumerate(SHAPES):
                for name in ("predict", "label", "dout"):
                    values = random.standard_normal(shape).astype(np.float32).astype(dtype)
                    found[f"{datatype}/{reduction}/{number}/{name}"] = values.astype(np.float32)
    return found


@pytest.fixture(scope="module")
def wanted(server: ServerProcess, cases: dict[str, Array]) -> dict[str, Array]:
    """The gradient of each case through our own client."""
    found: dict[str, Array] = {}
    with MseGradClient(server.address) as client:
        for case in {name.rpartition("/")[0] for name in cases}:
            datatype, reduction, _ = case.split("/")
            predict, label, dout = (
                cases[f"{case}/{name}"].astype(DTYPES[datatype]) for name in ("predict", "label", "dout")
            )
            found[case] = client.compute(predict, label, dout, reduction)
    return found


@pytest.mark.parametrize(
    ("environment", "script", "mode", "datatypes"),
    [
        ("tritonclient", "triton.py", "sync", tuple(DTYPES)),
        ("tritonclient", "triton.py", "stream", tuple(DTYPES)),
        ("tritonclient", "triton.py", "aio", tuple(DTYPES)),
        ("tritonclient", "triton.py", "aio_stream", tuple(DTYPES)),
        ("kserve", "kserve_client.py", "raw", ("FP32", "FP16", "FP64")),
        ("kserve", "kserve_client.py", "typed", ("FP32", "FP64")),
    ],
    ids=["triton-sync", "triton-stream", "triton-aio", "triton-aio-stream", "kserve-raw", "kserve-typed"],
)
def test_a_client_gets_the_bits_of_our_own_client(
    environment: str,
    script: str,
    mode: str,
    datatypes: tuple[str, ...],
    server: ServerProcess,
    cases: dict[str, Array],
    wanted: dict[str, Array],
    tmp_path: Path,
) -> None:
    np.savez(tmp_path / "cases.npz", **cases)  # type: ignore[arg-type]
    command = [python_of(environment), str(SCRIPTS / script), server.address, mode]
    ran = run_client([*command, str(tmp_path / "cases.npz"), str(tmp_path / "answers.npz")], os.environ)
    assert ran.returncode == 0, ran.stderr
    answers = np.load(tmp_path / "answers.npz")
    assert set(answers.files) == {case for case in wanted if case.startswith(datatypes)}
    for case in answers.files:
        assert answers[case].tobytes() == wanted[case].tobytes(), case


@pytest.mark.parametrize("flags", [[], ["--streaming"]], ids=["unary", "stream"])
def test_perf_analyzer_measures_the_server_and_reads_its_statistics(flags: list[str], server: ServerProcess) -> None:
    folder = Path(python_of("perf_analyzer")).parents[1]
    (cuda,) = folder.glob("lib/python*/site-packages/nvidia/cuda_runtime/lib")
    # It is linked to this library and calls nothing of it here.
    others = os.environ.get("LD_LIBRARY_PATH", "")
    environment = {**os.environ, "LD_LIBRARY_PATH": f"{cuda}:{others}"}
    require_libraries(folder / "bin/perf_analyzer", environment)
    command = [str(folder / "bin/perf_analyzer"), "-m", "mse_grad", "-i", "grpc", "-u", server.address, *flags]
    for name in ("predict", "label", "dout"):
        command += ["--shape", f"{name}:1000"]
    command += ["--concurrency-range", "2", "-s", "999"]
    command += ["--measurement-mode", "count_windows", "--measurement-request-count", "100"]
    ran = run_client(command, environment)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    counted = dict(re.findall(r"(Successful request count|Inference count): (\d+)", ran.stdout))
    assert int(counted["Inference count"]) == int(counted["Successful request count"]) >= 100
    assert "Failed" not in ran.stdout


def test_buf_curl_computes_through_reflection(server: ServerProcess) -> None:
    npx = require_program("npx")
    values = {"predict": [3.0, -1.5], "label": [1.0, 0.5], "dout": [2.0, 1.0]}
    inputs = [
        {"name": name, "datatype": "FP32", "shape": [2], "contents": {"fp32Contents": numbers}}
        for name, numbers in values.items()
    ]
    request = {
        "modelName": "mse_grad",
        "id": "7",
        "parameters": {"reduction": {"stringParam": "sum"}},
        "inputs": inputs,
    }
    url = f"http://{server.address}/inference.GRPCInferenceService/ModelInfer"
    command = [npx, "--yes", BUF, "curl", "--protocol", "grpc", "--http2-prior-knowledge", "--reflect"]
    ran = run_client([*command, "--data", json.dumps(request), url], os.environ)
    assert ran.returncode == 0, ran.stderr
    answer = json.loads(ran.stdout)
    assert answer["id"] == "7"
    assert answer["outputs"][0]["contents"]["fp32Contents"] == [8, -4]


def run_client(command: list[str], environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Runs a client without the packages of this repository."""
    clean = {name: value for name, value in environment.items() if name != "PYTHONPATH"}
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=CLIENT_TIMEOUT_S, env=clean)
