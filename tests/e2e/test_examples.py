"""Every example runs."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from support.server.certificates import Authority
from support.server.server_process import ServerProcess, running_server
from support.tools import require_module

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
        (
            "async_pipeline.py",
            ("50 batches in order", "50 tasks; the same sum", "cancelled", "too late: DeadlineExceeded"),
        ),
        ("many_small_gradients.py", ("the same bits", "item 1: ", "label has [5]", "shape (5,)")),
        ("shared_memory.py", ("transport: shared_memory", "the same bits")),
        ("tracing.py", ("mse_grad.compute:", "'mse_grad.request_id': 'step-1'", "training step")),
        ("errors.py", ("SHAPE_MISMATCH", "REDUCTION_UNKNOWN", "MESSAGE_TOO_LARGE")),
    ],
)
def test_an_example_runs_against_a_server(server: ServerProcess, name: str, words: tuple[str, ...]) -> None:
    output = run(EXAMPLES / name, server.address)
    assert [word for word in words if word not in output] == []


@pytest.mark.slow  # like all tests that need more than `make test` installs
def test_the_training_loop_ends_with_pytorchs_weights(server: ServerProcess) -> None:
    require_module("torch")
    assert "with the server's gradients: equal is True" in run(EXAMPLES / "training_loop.py", server.address)


def test_the_example_of_tls_and_tokens_runs_against_a_server_that_needs_both(tmp_path: Path) -> None:
    ca, token = Authority(tmp_path), tmp_path / "token"
    token.write_text("a-token-that-is-long-enough")
    with running_server(*ca.issue("server").flags, "--token-file", str(token)) as guarded:
        output = run(EXAMPLES / "tls_and_tokens.py", guarded.address, ca.certificate, token)
    lines = output.splitlines()
    assert lines[0] == "with CA and token: [[2.0, 2.0, 2.0], [2.0, 2.0, 2.0]]"
    assert [line.partition(",")[0] for line in lines[1:3]] == [
        "without a token: Unauthenticated",
        "with public CAs only: TlsFailed",
    ]


def test_several_servers_come_and_go_without_a_failed_call() -> None:
    output = run(EXAMPLES / "several_servers.py")
    assert "600 calls, 0 failed" in output
    shares_mb = [float(share) for share in re.findall(r"received (\S+) MB", output)]
    assert len(shares_mb) == 6
    assert all(43 < share_mb < 53 for share_mb in shares_mb)  # of 96 MB that two servers receive together


def test_the_fake_server_needs_no_server() -> None:
    assert run(EXAMPLES / "fake_server.py").count(": passed") == 2


def test_the_demo_shows_every_gradient_and_that_it_is_right(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy"):  # no proxy listens there
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    output = run(EXAMPLES / "demo.py")
    assert output.count(" ok ") == 2 * 3 * (3 + 1) + 1
    assert "mse_grad_requests_total" in output
    assert "exit code 0" in output
    assert "All 25 gradients are correct" in output


def test_the_data_is_what_its_script_makes() -> None:
    script = runpy.run_path(str(EXAMPLES / "letters.py"))
    made = script["arrays_of"](script["letters_of"](script["TEXT"].read_text(encoding="utf-8")))
    with np.load(script["OUTPUT"]) as file:
        for name, array in zip(("predict", "label", "dout"), made, strict=True):
            assert array.tobytes() == file[name].tobytes()


def test_every_example_is_run_here() -> None:
    assert {path.name for path in EXAMPLES.glob("*.py")} == {
        "async_pipeline.py",
        "demo.py",
        "demo_server.py",
        "errors.py",
        "fake_server.py",
        "letters.py",
        "many_small_gradients.py",
        "quickstart.py",
        "several_servers.py",
        "shared_memory.py",
        "tls_and_tokens.py",
        "tracing.py",
        "training.py",
        "training_loop.py",
    }
