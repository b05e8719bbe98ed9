"""`mse-grad health`: text, JSON and exit code."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner, Result
from grpc_health.v1 import health_pb2

from mse_grad_cli.commands import mse_grad
from support.server.health_server import health_server
from support.server.server_process import ServerProcess


def run(*arguments: str) -> Result:
    return CliRunner().invoke(mse_grad, ["health", *arguments])


def test_a_server_that_serves_ends_with_0(server: ServerProcess) -> None:
    result = run(server.address)
    assert (result.exit_code, result.output) == (0, "SERVING\n")


def test_a_server_that_does_not_serve_ends_with_1() -> None:
    with health_server(health_pb2.HealthCheckResponse.NOT_SERVING) as address:
        result = run(address)
        report = json.loads(run(address, "--json").output)
    assert (result.exit_code, result.output) == (1, "NOT_SERVING\n")
    assert report == {"address": address, "status": "NOT_SERVING", "serving": False}


def test_no_server_ends_with_3(tmp_path_factory: pytest.TempPathFactory) -> None:
    nobody = f"unix:{tmp_path_factory.mktemp('socket')}/nobody"
    result = run(nobody)
    assert result.exit_code == 3
    assert f"no answer from {nobody}: UNAVAILABLE" in result.output


def test_the_address_comes_from_the_variable(server: ServerProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run().exit_code == 2
    monkeypatch.setenv("MSE_GRAD_ADDR", server.address)
    assert run().exit_code == 0


def test_colours_go_to_terminals_only_and_not_with_no_color(
    server: ServerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "\x1b" not in run(server.address).output
    monkeypatch.setenv("FORCE_COLOR", "1")  # as on a terminal
    assert "\x1b[32m" in run(server.address).output
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[32m" not in run(server.address).output
