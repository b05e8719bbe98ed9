"""Broken logs: whatever happens to its stderr, a server answers, drains, and ends with the right exit code."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import grpc
import pytest

from mse_grad_client import ClientOptions, MseGradClient
from support.server.host_process import metrics
from support.server.refused_calls import make_refused_calls
from support.server.server_process import running_server
from support.values import expected, operands
from support.waiting import PATIENCE_S

# What /bin/sh does to stderr before it becomes the server.
FATES = {
    "closed": "exec 2>&-",
    "on a full disk": "exec 2>/dev/full",
    "in a file that may not grow": "ulimit -f 4; exec 2>log",
    "in a pipe whose reader has gone": "exec 2>&3",
    "in a pipe that nobody reads": "exec 2>&4",
}


@contextmanager
def started(fate: str, folder: Path, flags: Sequence[str]) -> Iterator[subprocess.Popen[bytes]]:
    """Runs a server with the given stderr; kills it at the end."""
    (broken_reader, broken), (unread_reader, unread) = os.pipe(), os.pipe()
    os.close(broken_reader)
    # The pipe is full from the start, so that it never accepts a single line.
    room = fcntl.fcntl(unread, fcntl.F_SETPIPE_SZ, 4096)
    os.write(unread, b"\n" * room)
    script = f'exec 3>&{broken} 4>&{unread}; {FATES[fate]}; exec 3>&- 4>&-; exec "$@"'
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("MSE_GRAD_")}
    process = subprocess.Popen(
        ["bash", "-c", script, "sh", sys.executable, "-m", "mse_grad_server", "--metrics-listen", "none", *flags],
        cwd=folder,
        env=inherited,
        stdin=subprocess.DEVNULL,
        pass_fds=(broken, unread),
        start_new_session=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        for descriptor in (broken, unread, unread_reader):
            os.close(descriptor)


@pytest.fixture
def folder() -> Iterator[Path]:
    # Not pytest's own directory: its path may be too long for a Unix socket.
    with TemporaryDirectory() as path:
        yield Path(path)


def fail_and_compute(address: str, *, times: int) -> None:
    """Sends requests that are refused, some of which write a line to the log, and then computes a gradient."""
    given = operands((1000,))
    options = ClientOptions(timeout_s=PATIENCE_S, shared_memory=False, direct=False)
    with MseGradClient(address, options=options) as client:
        client.wait_ready(PATIENCE_S)
        make_refused_calls(address, times)
        assert client.compute(*given).tobytes() == expected(*given).tobytes()


@pytest.mark.parametrize("workers", [0, 1], ids=["alone", "supervised"])
@pytest.mark.parametrize("fate", FATES)
def test_a_server_answers_and_drains_whatever_happens_to_its_log(fate: str, workers: int, folder: Path) -> None:
    address = f"unix:{folder}/s"
    with started(fate, folder, ["--listen", address, "--workers", str(workers)]) as process:
        fail_and_compute(address, times=300)
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_S) == 0
    assert not os.path.lexists(folder / "s")


@pytest.mark.parametrize("fate", FATES)
def test_a_start_that_fails_has_its_exit_code_whatever_happens_to_its_log(fate: str, folder: Path) -> None:
    with started(fate, folder, ["--window-chunks", "0"]) as process:
        assert process.wait(PATIENCE_S) == 2
    with socket.create_server(("127.0.0.1", 0)) as taken:
        for workers in ("0", "1"):
            flags = ["--listen", f"127.0.0.1:{taken.getsockname()[1]}", "--workers", workers]
            with started(fate, folder, flags) as process:
                assert process.wait(PATIENCE_S) == 9


def test_a_caller_without_a_token_cannot_make_it_write_megabytes(folder: Path) -> None:
    (folder / "tokens").write_text("0123456789abcdef\n")
    with (
        running_server("--token-file", str(folder / "tokens")) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        ask: Any = channel.unary_unary("/mse_grad.v1.MseGradService/GetServerInfo" + "x" * 4000)
        for _ in range(500):
            with pytest.raises(grpc.RpcError):
                ask(b"", timeout=PATIENCE_S)
        assert 'mse_grad_log_lost_lines_total{reason="rate_limit"}' in metrics(server)
    assert len(server.log) < 2**17
    assert server.event("lines_left_out")["reason"] == "TOKEN_MISSING"


def test_a_server_that_is_asked_to_end_logs_no_error() -> None:
    with running_server("--direct-listen", "none") as server:
        server.event("ready")
    lines = [json.loads(line) for line in server.log.splitlines()]
    assert lines[-1]["event"] == "stopping"
    assert [line for line in lines if line["level"] == "error"] == []
