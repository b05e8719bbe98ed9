"""A command whose output is not taken says so, with an exit code that means nothing else."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest

from support.server.server_process import ServerProcess, running_server

COMMANDS = ["--help", "info {address}", "info --json {address}", "doctor {address}"]
# What /bin/sh does with stdout before it becomes the command.
FATES = {
    "exec >/dev/full": "No space left on device",
    "exec >&-": "stdout is closed",
    "exec >&4": "Broken pipe",
}


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    with running_server() as process:
        yield process


def run(fate: str, module: str, arguments: list[str]) -> subprocess.CompletedProcess[str]:
    """Runs the command with such a stdout; as descriptor 4 it gets a pipe whose reader has gone."""
    script = f'exec 4> >(exit 0); wait $!; {fate}; exec "$@"'
    command = ["bash", "-c", script, "bash", sys.executable, "-m", module, *arguments]
    return subprocess.run(command, stderr=subprocess.PIPE, text=True, timeout=60, check=False)


@pytest.mark.parametrize("fate", FATES)
@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_that_cannot_print_ends_with_4_and_says_why(command: str, fate: str, server: ServerProcess) -> None:
    ended = run(fate, "mse_grad_cli.main", command.format(address=server.address).split())
    assert ended.returncode == 4, ended.stderr
    assert FATES[fate] in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


@pytest.mark.parametrize("fate", FATES)
@pytest.mark.parametrize("command", ["--help", "--print-config", "doctor"])
def test_the_server_that_cannot_print_ends_with_17_and_says_why(command: str, fate: str) -> None:
    ended = run(fate, "mse_grad_server", [command])
    assert ended.returncode == 17, ended.stderr
    assert FATES[fate] in ended.stderr
    assert len(ended.stderr.splitlines()) == 1
