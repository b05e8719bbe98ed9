"""Wrong settings: the server names the mistake and ends with exit code 2."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from support.server.server_process import ServerProcess


def start(*arguments: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mse_grad_server", "--metrics-listen", "none", *arguments],
        env={**os.environ, **(environment or {})},
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--listen", "nowhere"), ("--listen", "nowhere", "host:port")),
        (("--listen", "127.0.0.1:65536"), ("--listen", "65535")),
        (("--listen", "0.0.0.0:0"), ("--listen", "--insecure-listen")),
        (("--backend", "gpu"), ("--backend", "gpu", "cpu")),
        (("--cpu-kernel", "mmx"), ("--cpu-kernel", "mmx", "avx512")),
        (("--drain-timeout-s", "-1"), ("--drain-timeout-s", "-1")),
        (("--backend", "ascend", "--devices", "7-0"), ("--devices", "7-0", "the smaller first")),
        (("--devices", "0-7"), ("--devices", "--backend ascend", "--workers")),
        (("--workers", "many"), ("--workers", "many", "0 to 256")),
        (("--ready-when", "some"), ("--ready-when", "some", "any, all")),
        (("--no-such-setting", "1"), ("--no-such-setting",)),
        (("--config", "/no/such/file.yaml"), ("/no/such/file.yaml",)),
    ],
    ids=lambda value: " ".join(value) if value[0].startswith("--") else "",
)
def test_a_wrong_flag_ends_the_start_and_is_named(arguments: tuple[str, ...], words: tuple[str, ...]) -> None:
    ended = start("--listen", "127.0.0.1:0", *arguments)
    assert ended.returncode == 2
    assert [word for word in words if word not in ended.stderr] == []


def test_a_wrong_variable_ends_the_start_and_is_named() -> None:
    ended = start("--listen", "127.0.0.1:0", environment={"MSE_GRAD_CPU_KERNEL": "mmx"})
    assert ended.returncode == 2
    assert "MSE_GRAD_CPU_KERNEL" in ended.stderr
    assert "avx512" in ended.stderr


def test_a_taken_address_ends_the_start_and_is_named(server: ServerProcess) -> None:
    ended = start("--listen", server.address)
    assert ended.returncode == 9
    assert server.address in ended.stderr
