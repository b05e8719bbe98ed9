"""What the server's doctor says of the port of direct connections."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mse_grad_server.doctor.command import run
from mse_grad_server.doctor.direct import examine_direct
from mse_grad_server.doctor.finding import Level
from mse_grad_server.process.exits import ExitCode
from mse_grad_server.settings.model import Settings


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({}, "a free port of 127.0.0.1"),
        ({"listen": "0.0.0.0:50051", "direct_listen": "none"}, "none; requests of other hosts take gRPC's streams"),
        ({"listen": "unix:/run/s.sock"}, "none; requests of other hosts take gRPC's streams"),
        ({"listen": "0.0.0.0:50051", "direct_listen": "0.0.0.0:50052"}, "0.0.0.0:50052"),
        ({"direct_listen": "[::1]:50052", "workers": 2}, "[::1]:50052, the next port for each further worker"),
    ],
)
def test_a_port_that_clients_can_know_needs_no_action(settings: dict[str, object], text: str) -> None:
    finding = examine_direct(Settings(insecure_listen=True, **settings))  # type: ignore[arg-type]
    assert (finding.level, finding.text, finding.advice) == (Level.OK, text, "")


def test_a_port_that_no_firewall_can_name_is_a_warning() -> None:
    finding = examine_direct(Settings(listen="0.0.0.0:50051", insecure_listen=True))
    assert finding.level is Level.WARNING
    assert finding.text == "a free port of 0.0.0.0, another one after each start"
    assert "--direct-listen 0.0.0.0:50052" in finding.advice


def test_the_command_has_it_on_every_host(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--listen", "0.0.0.0:50051", "--insecure-listen", "--json"], root=tmp_path) == ExitCode.OK
    report = json.loads(capsys.readouterr().out)
    assert report["verdict"] == "warning"
    assert "direct connections" in [finding["subject"] for finding in report["findings"]]
