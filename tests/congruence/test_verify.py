"""`mse-grad verify` and `mse-grad info` against running servers."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys

import pytest
from click.testing import CliRunner, Result

from mse_grad.tensor import BFLOAT16, FLOAT32, FLOAT64, DType
from mse_grad_cli.commands import mse_grad
from mse_grad_server.backends.base import Gradient
from mse_grad_server.process.clock import LoopClock
from support.server.fakes import FakeBackend
from support.server.server_in_loop import serving
from support.server.server_process import ServerProcess


class LyingBackend(FakeBackend):
    """A backend that is right during the verification at the start, and wrong in one element of bfloat16 afterwards."""

    lying = False

    def compute(self, gradient: Gradient) -> None:
        super().compute(gradient)
        if self.lying and gradient.spec.dtype is BFLOAT16:
            gradient.y[-1:] = 0


def run_in_process(backend: FakeBackend, *arguments: str) -> Result:
    async def serve() -> Result:
        async with serving(backend=backend, clock=LoopClock()) as served:
            backend.lying = True  # type: ignore[attr-defined]
            address = str(served.server.address)
            return await asyncio.to_thread(CliRunner().invoke, mse_grad, [arguments[0], address, *arguments[1:]])

    return asyncio.run(serve())


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mse_grad_cli.main", *arguments],
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )


def test_verify_prints_every_line_and_ends_with_0(server: ServerProcess, dtypes: tuple[DType, ...]) -> None:
    ended = run("verify", server.address, "--quick")
    assert ended.returncode == 0, ended.stdout
    lines = [" ".join(line.split()) for line in ended.stdout.splitlines()]
    for number in ("1", "2", "3", "1-3", "4", *(["6"] if FLOAT64 in dtypes else [])):
        assert any(line.startswith(f"{number} ") for line in lines)
    for dtype in dtypes:
        assert dtype.name in lines
    paths = ("unary", "stream in 4096-byte chunks", "one of many", "stream", "direct connection")
    for path in (*paths, "copied to shared memory", "in shared memory"):
        assert sum(f"4 {path}: differences 0 0 ok" in line for line in lines) == len(dtypes)
    assert any(line.endswith("20 runs of 2 cases") for line in lines)
    assert lines[-1].startswith("All ")
    assert ended.stderr == ""


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_verify_at_full_length_ends_with_0(server: ServerProcess) -> None:
    ended = run("verify", server.address)
    assert ended.returncode == 0, ended.stdout


def test_verify_ends_with_1_if_the_server_is_wrong_and_names_dtype_and_line() -> None:
    result = run_in_process(LyingBackend(), "verify", "--quick")
    assert result.exit_code == 1
    assert "bfloat16: zeros although golden is not 0: " in result.output
    assert "FAIL" in result.output
    assert "checks failed" in result.output


def test_verify_as_json_has_the_figures_of_the_dtypes_that_the_server_computes() -> None:
    result = run_in_process(LyingBackend((FLOAT32,)), "verify", "--quick", "--json", "--seed", "5")
    verdict = json.loads(result.stdout)
    assert (result.exit_code, verdict["passed"], verdict["seed"]) == (0, True, 5)
    assert verdict["server"]["device"] == "fake"
    assert {row["dtype"] for row in verdict["rows"]} == {"float32"}
    (worst,) = (row["figure"] for row in verdict["rows"] if row["line"] == "ulp")
    assert 1 <= worst <= 4


def test_verify_ends_with_3_if_the_server_fails_midway() -> None:
    backend = LyingBackend()

    class Failing(LyingBackend):
        def compute(self, gradient: Gradient) -> None:
            if self.lying:
                raise RuntimeError("the device is gone")
            super().compute(gradient)

    result = run_in_process(Failing(backend.dtypes), "verify", "--quick")
    assert result.exit_code == 3
    assert "failed: INTERNAL" in result.output


def test_info_shows_the_description_of_the_server(server: ServerProcess) -> None:
    ended = run("info", server.address)
    assert ended.returncode == 0
    ready = server.event("ready")
    for text in (
        ready["version"],
        f"{ready['backend']}, {ready['device']}",
        ready["kernel_hash"],
        "ready",
        "float32 intermediates",
    ):
        assert text in ended.stdout


def test_info_as_json_has_every_field(server: ServerProcess, dtypes: tuple[DType, ...]) -> None:
    found = json.loads(run("info", server.address, "--json").stdout)
    assert found["numerics"] == {
        "intermediate": "float32",
        "subnormals": True,
        "rounding": "nearest-even",
        "verified": True,
        "infinities": True,
        "nans": True,
        "overflow": True,
        "overflow_mode": "inf_nan",
    }
    assert found["endpoints"][0]["state"] == "ready"
    assert found["dtypes"] == [dtype.name for dtype in dtypes]
