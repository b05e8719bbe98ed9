"""`mse-grad doctor` against a real server."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

from support.server.server_process import ServerProcess, running_server


def doctor(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mse_grad_cli.main", "doctor", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_the_doctor_finds_no_fault_in_a_server_that_serves(server: ServerProcess) -> None:
    ended = doctor(server.address, "--json")
    assert ended.returncode == 0, ended.stdout
    report = json.loads(ended.stdout)
    assert report["verdict"] == "ok"
    found = report["findings"][f"server at {server.address}"]
    subjects = [finding["subject"] for finding in found]
    assert subjects == ["address", "health", "server", "transport", "workers", "gradient"]
    assert found[1]["text"] == "SERVING"


def test_every_worker_is_examined_through_a_unix_socket(tmp_path: Path) -> None:
    with running_server("--workers", "2", "--ready-when", "all", listen=f"unix:{tmp_path}/all.sock") as server:
        ended = doctor(server.address)
    assert ended.returncode == 0, ended.stdout
    assert "2 of 2 ready" in ended.stdout


def test_both_doctors_end_with_the_same_words(tmp_path: Path) -> None:
    words = re.compile(r"Errors: \d+, warnings: \d+\. Advice is below each\.")
    client = doctor(f"unix:{tmp_path}/nobody")
    server = subprocess.run(
        [sys.executable, "-m", "mse_grad_server", "doctor", "--backend", "ascend", "--ascend-runtime-folder", tmp_path],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    for ended in (client, server):
        assert ended.returncode == 1, ended.stderr
        assert words.match(ended.stdout.splitlines()[-1]), ended.stdout
