"""What deploy/ installs on a host or into an image: the unit, the compose files, the commands."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from mse_grad_client import ClientOptions, MseGradClient
from mse_grad_server.config import ENVIRONMENT_PREFIX, Settings
from support.prometheus import DEPLOY
from support.server import running_server
from support.tools import require_program

UNIT = DEPLOY / "systemd/mse-grad.service"
# Worse than this, a restriction was lost; 0 is best, 10 worst.
MOST_EXPOSED = {"alone": 1.6, "ascend": 1.8}


class _ComposeLoader(yaml.SafeLoader):
    """Knows `!reset`, with which a file takes back what the file below it says."""


_ComposeLoader.add_constructor("!reset", lambda *_: None)


def compose(name: str) -> dict[str, dict[str, Any]]:
    """Returns the services of a compose file."""
    services: dict[str, dict[str, Any]] = yaml.load((DEPLOY / name).read_text(), _ComposeLoader)["services"]
    return services


@pytest.mark.parametrize("kind", MOST_EXPOSED)
def test_the_unit_is_valid_and_shut_in(kind: str, tmp_path: Path) -> None:
    program = require_program("systemd-analyze")
    unit = tmp_path / UNIT.name
    # What it starts has to be there.
    text = re.sub(r"^(ExecStart=)/\S+$", rf"\g<1>{sys.executable}", UNIT.read_text(), flags=re.MULTILINE)
    unit.write_text(text)
    if kind == "ascend":
        (tmp_path / f"{UNIT.name}.d").mkdir()
        drop_in = (DEPLOY / "systemd/ascend.conf").read_text()
        changed = re.sub(r"^(ExecStart=)/\S+$", rf"\g<1>{sys.executable}", drop_in, flags=re.MULTILINE)
        (tmp_path / f"{UNIT.name}.d/ascend.conf").write_text(changed)
    command = [program, "verify", "--man=no", str(unit)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
    command = [program, "security", "--offline=true", "--no-pager", str(unit)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    exposed = re.search(r"exposure level for mse-grad.service: ([0-9.]+)", ended.stdout)
    assert exposed is not None, ended.stdout + ended.stderr
    assert float(exposed[1]) <= MOST_EXPOSED[kind]


@pytest.mark.parametrize("name", ["compose.yaml", "compose.cpu.yaml", "compose.tls.yaml"])
def test_compose_sets_what_the_server_knows_and_the_example_names(name: str) -> None:
    known = {ENVIRONMENT_PREFIX + field.upper() for field in Settings.model_fields}
    assert set(compose(name)["server"]["environment"]) <= known
    example = (DEPLOY / ".env.example").read_text()
    asked = set(re.findall(r"\$\{(\w+)", (DEPLOY / name).read_text()))
    assert [variable for variable in sorted(asked) if f"{variable}=" not in example] == []


def test_services_have_no_rights_and_no_address_that_others_reach() -> None:
    services = compose("compose.yaml")
    assert set(services) == {"server", "prometheus", "alertmanager", "grafana", "npu-exporter"}
    assert services.pop("npu-exporter")["profiles"] == ["npu-exporter"]
    for service in services.values():
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert "no-new-privileges:true" in service["security_opt"]
        assert "mem_limit" in service
        assert "privileged" not in service
        assert "0.0.0.0" not in str(service)
    prometheus = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text())
    scraped = [job["static_configs"][0]["targets"][0] for job in prometheus["scrape_configs"]]
    assert services["server"]["environment"]["MSE_GRAD_METRICS_LISTEN"] in scraped


def test_the_commands_for_certificates_make_what_server_and_client_take(tmp_path: Path) -> None:
    require_program("openssl")
    text = (DEPLOY.parent / "docs/deploying.md").read_text()
    (commands,) = [block for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL) if "openssl req" in block]
    subprocess.run(["sh", "-euc", commands], cwd=tmp_path, check=True, capture_output=True, timeout=60)
    folder = tmp_path / "secrets/server"
    environment = compose("compose.tls.yaml")["server"]["environment"]
    names = {
        name: value.replace("/run/secrets/mse-grad", str(folder))
        for name, value in environment.items()
        if str(value).startswith("/run/secrets/mse-grad/")
    }
    assert len(names) == 3
    options = ClientOptions(tls_ca=tmp_path / "secrets/ca/ca.pem", token_file=folder / "tokens", timeout_s=60)
    with running_server(environment=names) as server, MseGradClient(server.address, options=options) as client:
        assert client.server_info().ready


def test_the_health_command_says_whether_the_server_takes_requests() -> None:
    def asked(address: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(DEPLOY / "health.py")]
        variables = {**os.environ, "MSE_GRAD_LISTEN": address}
        return subprocess.run(command, env=variables, capture_output=True, text=True, timeout=60, check=False)

    with running_server() as server:
        ended = asked(server.address)
        assert (ended.returncode, ended.stderr) == (0, "")
    ended = asked(server.address)
    assert ended.returncode == 1
    assert server.address in ended.stderr


def test_the_entry_of_the_ascend_image_becomes_the_server_in_both_environments(tmp_path: Path) -> None:
    operator = tmp_path / "operator/vendors/mse_grad/bin"
    operator.mkdir(parents=True)
    (tmp_path / "set_env.sh").write_text("export TOOLKIT=sourced\n")
    (operator / "set_env.bash").write_text("export OPERATOR=sourced-after-$TOOLKIT\n")
    server = tmp_path / "mse-grad-server"
    server.write_text('#!/bin/sh\necho "$$ $OPERATOR $*"\n')
    server.chmod(0o755)
    variables = {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "CANN_FOLDER": str(tmp_path),
        "OPERATOR_FOLDER": str(tmp_path / "operator"),
    }
    command = [str(DEPLOY / "start_ascend"), "--devices", "0-7"]
    with subprocess.Popen(command, env=variables, stdout=subprocess.PIPE, text=True) as started:
        printed, _ = started.communicate(timeout=60)
    assert printed == f"{started.pid} sourced-after-sourced --backend ascend --devices 0-7\n"
