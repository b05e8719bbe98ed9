"""The compose files, started by podman-compose at the addresses in them. For `make image-test` only.

The server is the image `cpu`; Prometheus and Alertmanager are those of this machine, in separate images. Grafana is
left out.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pytest

from support.deploy.own_network import own_network
from support.deploy.podman import Podman
from support.deploy.prometheus import DEPLOY
from support.waiting import PATIENCE_S, wait_until

from .conftest import ROOT, Image

pytestmark = pytest.mark.timeout(900)

SERVER = "127.0.0.1:50051"
# Debian's Alertmanager does not start without this folder.
TEMPLATES = "/usr/share/prometheus/alertmanager"
SERVICES = ("server", "prometheus", "alertmanager")
# An alert has to wait for a scrape, for its minute, and for Alertmanager.
START_PATIENCE_S = 4 * PATIENCE_S
ANSWER_S = 10.0

T = TypeVar("T")


class Project:
    """compose.yaml and compose.cpu.yaml, in the network of this thread."""

    def __init__(self, podman: Podman, image: Image) -> None:
        self._podman = podman
        self._podman.environment.update(
            MSE_GRAD_CPU_IMAGE=image.tag,
            PROMETHEUS_IMAGE="localhost/prometheus:test",
            ALERTMANAGER_IMAGE="localhost/alertmanager:test",
        )

    def run(self, *arguments: str, on_top: Sequence[str] = (), **variables: str) -> str:
        """Runs podman-compose with the further files `on_top`; returns its standard output."""
        self._podman.environment.update(variables)
        flags = ["--env-file", str(DEPLOY / ".env.example")]
        flags += [
            flag for name in ("compose.yaml", "compose.cpu.yaml", *on_top) for flag in ("--file", str(DEPLOY / name))
        ]
        return self._podman.succeed(sys.executable, "-m", "podman_compose", *flags, *arguments, cwd=DEPLOY)

    def health(self, service: str) -> int:
        """Runs the health check of a service, as compose would; returns its exit code."""
        command = ["podman", "healthcheck", "run", f"mse-grad_{service}_1"]
        return subprocess.run(command, env=self._podman.environment, capture_output=True, check=False).returncode


def asked(url: str) -> Any:
    """Returns the JSON at `url`, or None if nothing answers."""
    try:
        with urllib.request.urlopen(f"http://{url}", timeout=ANSWER_S) as answer:
            return json.load(answer)
    except OSError:
        return None


def series(expression: str) -> list[dict[str, Any]]:
    found = asked(f"127.0.0.1:9090/api/v1/query?{urllib.parse.urlencode({'query': expression})}")
    return list(found["data"]["result"]) if found else []


def alerts() -> set[str]:
    """Returns the names of the active alerts in Alertmanager."""
    return {alert["labels"]["alertname"] for alert in asked("127.0.0.1:9093/api/v2/alerts?active=true") or ()}


def until(condition: Callable[[], T], otherwise: str) -> T:
    return wait_until(condition, patience_s=START_PATIENCE_S, otherwise=otherwise)


def doctor(*flags: str) -> int:
    """Runs the client's doctor, which checks the path up to a right gradient; returns its exit code."""
    command = [sys.executable, "-m", "mse_grad_cli.main", "doctor", *flags, SERVER]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=START_PATIENCE_S, check=False)
    print(ended.stdout, ended.stderr)
    return ended.returncode


def transport() -> str:
    """Returns the transport of a gradient's operands to the server."""
    program = "import sys, mse_grad_client as sdk; print(sdk.MseGradClient(sys.argv[1]).server_info().transport)"
    command = [sys.executable, "-c", program, SERVER]
    return subprocess.run(command, capture_output=True, text=True, timeout=START_PATIENCE_S, check=True).stdout.strip()


@pytest.fixture(scope="module")
def project(podman: Podman, debian: str, image: Image, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    context = tmp_path_factory.mktemp("monitoring")
    for program in ("prometheus", "prometheus-alertmanager"):
        found = shutil.which(program)
        assert found, f"{program} is not installed"
        shutil.copy(found, context)
    shutil.copytree(TEMPLATES, context / "templates")
    recipe = str(Path(__file__).parent / "monitoring.Dockerfile")
    for name in ("prometheus", "alertmanager"):
        flags = ["--build-arg", f"DEBIAN_IMAGE={debian}", "--file", recipe, "--target", name]
        podman.run("build", *podman.build_flags, *flags, "--tag", f"localhost/{name}:test", str(context))
    settings = context / "server.env"
    settings.write_text("MSE_GRAD_SHARED_MEMORY_USERS=0,10001\n")
    with own_network():
        opened = Project(podman, image)
        opened.run("up", "--detach", *SERVICES, MSE_GRAD_SETTINGS=str(settings))
        yield opened
        opened.run("down", "--volumes", "--timeout", "5")


def test_it_starts_and_alerts_while_the_server_is_stopped(project: Project) -> None:
    until(lambda: project.health("server") == 0, "the server is not healthy")
    assert doctor() == 0
    # The client runs on the host as root, whom server.env allows, not as the user of the container.
    assert transport() == "shared_memory"
    (up,) = until(lambda: series('up{job="mse-grad"} == 1'), "Prometheus does not scrape the server")
    assert up["metric"]["instance"] == "this-host"
    until(lambda: series("job:mse_grad_requests:rate5m"), "the rules record nothing")
    assert "MseGradDown" not in alerts()

    project.run("stop", "server")
    until(lambda: "MseGradDown" in alerts(), "the alert for a stopped server did not fire")
    project.run("start", "server")
    until(lambda: "MseGradDown" not in alerts(), "the alert did not resolve after the server's restart")


def test_it_serves_callers_with_a_token_over_tls(project: Project, tmp_path: Path) -> None:
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / "docs/deploying.md").read_text(), re.DOTALL)
    (commands,) = [block for block in blocks if "openssl req" in block]
    subprocess.run(["sh", "-e", "-c", f"{commands}\nchown -R 10001 secrets/server"], cwd=tmp_path, check=True)
    secrets = tmp_path / "secrets"
    on_top = ["compose.tls.yaml"]
    project.run("up", "--detach", "server", on_top=on_top, MSE_GRAD_SECRETS=str(secrets / "server"))
    until(lambda: project.health("server") == 0, "the server is not healthy")
    trust = ["--tls-ca", str(secrets / "ca/ca.pem")]
    assert doctor(*trust, "--token-file", str(secrets / "server/tokens")) == 0
    assert doctor(*trust) != 0
    assert doctor() != 0
