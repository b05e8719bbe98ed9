"""The files that deploy/ installs on a host or into an image: unit, compose files, commands."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from mse_grad.version import VERSION
from mse_grad_client import ClientOptions, MseGradClient
from mse_grad_server.backends.ascend.startup.diagnosis import SHARED_FILES
from mse_grad_server.settings.model import ENVIRONMENT_PREFIX, Settings
from support.deploy.prometheus import DEPLOY
from support.server.server_process import running_server
from support.tools import require_program

UNIT = DEPLOY / "systemd/mse-grad.service"
# The variables with which the benchmarks tune malloc of their servers.
MALLOC = {
    "MALLOC_MMAP_THRESHOLD_": "1073741824",
    "MALLOC_TRIM_THRESHOLD_": "1073741824",
    "MALLOC_TOP_PAD_": "67108864",
    "MALLOC_ARENA_MAX": "1",
}
# Highest exposure that systemd-analyze may report; 0 is best, 10 worst. Above it, a restriction was lost.
MOST_EXPOSED = {"alone": 1.6, "ascend": 1.8}


class _ComposeLoader(yaml.SafeLoader):
    """Supports `!reset`, which removes a value of the file below."""


_ComposeLoader.add_constructor("!reset", lambda *_: None)


def compose(name: str) -> dict[str, dict[str, Any]]:
    """Returns the services of a compose file."""
    services: dict[str, dict[str, Any]] = yaml.load((DEPLOY / name).read_text(), _ComposeLoader)["services"]
    return services


@pytest.mark.parametrize("kind", MOST_EXPOSED)
def test_the_unit_is_valid_and_sandboxed(kind: str, tmp_path: Path) -> None:
    program = require_program("systemd-analyze")
    unit = tmp_path / UNIT.name
    # The program that the unit starts must exist.
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


def test_the_unit_allows_the_device_group_that_the_driver_registers() -> None:
    drop_in = (DEPLOY / "systemd/ascend.conf").read_text()
    allowed = re.findall(r"^DeviceAllow=(\S+) rw$", drop_in, re.MULTILINE)
    # Source: the driver's uda_access.c; /proc/devices names the group, not the files.
    assert "char-devdrv-cdev" in allowed
    assert {f"/dev/{name}" for name in SHARED_FILES} <= set(allowed)


@pytest.mark.parametrize("name", ["compose.yaml", "compose.cpu.yaml", "compose.tls.yaml"])
def test_compose_sets_only_known_settings_and_env_example_names_every_variable(name: str) -> None:
    known = {ENVIRONMENT_PREFIX + field.upper() for field in Settings.model_fields}
    assert set(compose(name)["server"]["environment"]) - set(MALLOC) <= known
    example = (DEPLOY / ".env.example").read_text()
    asked = set(re.findall(r"\$\{(\w+)", (DEPLOY / name).read_text()))
    assert [variable for variable in sorted(asked) if f"{variable}=" not in example] == []


def test_direct_connections_have_a_fixed_port_wherever_one_has_to_be_let_through() -> None:
    fixed = compose("compose.tls.yaml")["server"]["environment"]["MSE_GRAD_DIRECT_LISTEN"]
    (port,) = re.findall(r"0\.0\.0\.0:(\d+)\}$", fixed)
    recipe = (DEPLOY.parent / "Dockerfile").read_text()
    assert [port in exposed.split() for exposed in re.findall(r"^EXPOSE (.*)$", recipe, re.MULTILINE)] == [True, True]
    assert f":{port}" in (DEPLOY / ".env.example").read_text()


def test_services_have_no_privileges_and_no_public_address() -> None:
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


def test_the_documented_commands_make_certificates_that_server_and_client_accept(tmp_path: Path) -> None:
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
    # What Python 3.13 and newer ask of every certificate.
    subprocess.run(
        ["openssl", "verify", "-x509_strict", "-CAfile", "secrets/ca/ca.pem", "secrets/server/tls.pem"],
        cwd=tmp_path,
        check=True,
        timeout=60,
    )
    options = ClientOptions(tls_ca=tmp_path / "secrets/ca/ca.pem", token_file=folder / "tokens", timeout_s=60)
    with running_server(environment=names) as server, MseGradClient(server.address, options=options) as client:
        assert client.server_info().ready


def test_every_image_probes_the_server_that_it_starts_and_compose_leaves_that_to_it() -> None:
    recipe = (DEPLOY.parent / "Dockerfile").read_text()
    checks = [json.loads(check) for check in re.findall(r"HEALTHCHECK .*\\\n +CMD (\[.*\])\nENTRYPOINT", recipe)]
    assert checks == [["mse-grad-server", "probe"], ["mse-grad-server", "probe", "--backend", "ascend"]]
    # Tools for compose join two lists of a health check in their own ways.
    assert all("healthcheck" not in compose(name)["server"] for name in ("compose.yaml", "compose.cpu.yaml"))


def test_an_image_that_is_built_without_make_has_the_version_of_the_sources() -> None:
    recipe = (DEPLOY.parent / "Dockerfile").read_text()
    assert set(re.findall(r"^ARG VERSION=(\S+)$", recipe, re.MULTILINE)) == {VERSION}, "change both ARG VERSION"


def test_every_deployment_tunes_malloc_as_the_benchmarks_do() -> None:
    recipe = (DEPLOY.parent / "Dockerfile").read_text()
    for target in (
        recipe.split("FROM ${DEBIAN_IMAGE} AS cpu")[1].split(" AS build-ascend")[0],
        recipe.split("AS ascend")[1],
    ):
        assert dict(re.findall(r"\b(MALLOC_\w+)=(\d+)", target)) == MALLOC
    assert dict(re.findall(r"\b(MALLOC_\w+)=(\d+)", UNIT.read_text())) == MALLOC
    environment = compose("compose.yaml")["server"]["environment"]
    assert {name: value for name, value in environment.items() if name.startswith("MALLOC_")} == MALLOC


def test_the_server_leaves_a_tuned_malloc_alone() -> None:
    script = "from mse_grad_server.process.environment import keep_freed_memory; print(keep_freed_memory())"
    ended = subprocess.run([sys.executable, "-c", script], env=MALLOC, capture_output=True, text=True, check=True)
    assert ended.stdout == "False\n"


@pytest.mark.parametrize(
    ("installed", "sourced"), [(("cann", "ascend-toolkit"), "cann"), (("ascend-toolkit",), "ascend-toolkit")]
)
def test_the_toolkit_is_found_by_its_current_name_and_by_the_one_before_8_5(
    tmp_path: Path, installed: tuple[str, ...], sourced: str
) -> None:
    for name in installed:
        (tmp_path / name).mkdir()
        (tmp_path / name / "set_env.sh").write_text(f"echo {name}\n")
    script = 'source "$0"'
    variables = {"PATH": os.environ["PATH"], "ASCEND_INSTALL_PATH": str(tmp_path)}
    command = ["bash", "-eo", "pipefail", "-c", script, str(DEPLOY / "cann_environment")]
    assert subprocess.run(command, env=variables, capture_output=True, text=True, check=True).stdout == f"{sourced}\n"


@pytest.mark.parametrize(
    ("given", "becomes"),
    [
        (["--devices", "0-7"], "--backend ascend --devices 0-7"),
        ([], "--backend ascend"),
        (["doctor", "--json"], "doctor --json --backend ascend"),
        (["probe"], "probe --backend ascend"),
    ],
)
def test_the_entry_point_of_the_ascend_image_runs_the_server_in_both_environments(
    tmp_path: Path, given: list[str], becomes: str
) -> None:
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
    command = [str(DEPLOY / "start_ascend"), *given]
    with subprocess.Popen(command, env=variables, stdout=subprocess.PIPE, text=True) as started:
        printed, _ = started.communicate(timeout=60)
    assert printed == f"{started.pid} sourced-after-sourced {becomes}\n"


@pytest.mark.parametrize("own", [None, "/own/packages"])
def test_packages_of_the_toolkit_do_not_hide_those_of_the_server(tmp_path: Path, own: str | None) -> None:
    operator = tmp_path / "operator/vendors/mse_grad/bin"
    operator.mkdir(parents=True)
    (tmp_path / "set_env.sh").write_text("export PYTHONPATH=/toolkit/python/site-packages:$PYTHONPATH\n")
    (operator / "set_env.bash").touch()
    server = tmp_path / "mse-grad-server"
    server.write_text('#!/bin/sh\necho "${PYTHONPATH-unset}"\n')
    server.chmod(0o755)
    variables = {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "CANN_FOLDER": str(tmp_path),
        "OPERATOR_FOLDER": str(tmp_path / "operator"),
        **({} if own is None else {"PYTHONPATH": own}),
    }
    command = [str(DEPLOY / "start_ascend")]
    ended = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=60, check=True)
    assert ended.stdout == f"{own or 'unset'}\n"
