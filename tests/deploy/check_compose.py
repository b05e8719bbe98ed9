"""The compose files, brought up by podman-compose at the addresses that they name. For `make image-test` alone.

The server is the image `cpu`; Prometheus and Alertmanager are those of this machine, in images of their own. Grafana
stays out.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

from support.own_network import own_network
from support.podman import Podman
from support.prometheus import DEPLOY

from .conftest import Image

pytestmark = pytest.mark.timeout(900)

SERVER = "127.0.0.1:50051"
# Debian's Alertmanager does not start without.
TEMPLATES = "/usr/share/prometheus/alertmanager"
SERVICES = ("server", "prometheus", "alertmanager")
# An alert is to wait for a scrape, for its minute, and for Alertmanager.
PATIENCE_S = 240.0
LOOK_S = 0.5

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

    def run(self, *arguments: str) -> str:
        """Runs podman-compose; returns its standard output."""
        files = [flag for name in ("compose.yaml", "compose.cpu.yaml") for flag in ("--file", str(DEPLOY / name))]
        return self._podman.succeed(sys.executable, "-m", "podman_compose", *files, *arguments, cwd=DEPLOY)

    def health(self, service: str) -> int:
        """Runs the health check of a service, as compose would; returns how it ended."""
        command = ["podman", "healthcheck", "run", f"mse-grad_{service}_1"]
        return subprocess.run(command, env=self._podman.environment, capture_output=True, check=False).returncode


def asked(url: str) -> Any:
    """Returns the JSON at `url`, None where nobody answers."""
    try:
        with urllib.request.urlopen(f"http://{url}", timeout=PATIENCE_S) as answer:
            return json.load(answer)
    except urllib.error.URLError:
        return None


def series(expression: str) -> list[dict[str, Any]]:
    found = asked(f"127.0.0.1:9090/api/v1/query?{urllib.parse.urlencode({'query': expression})}")
    return list(found["data"]["result"]) if found else []


def alerts() -> set[str]:
    """Returns the names of the alerts that Alertmanager was sent and that go on."""
    return {alert["labels"]["alertname"] for alert in asked("127.0.0.1:9093/api/v2/alerts?active=true") or ()}


def until(condition: Callable[[], T], what: str) -> T:
    give_up_s = time.monotonic() + PATIENCE_S
    while not (found := condition()):
        assert time.monotonic() < give_up_s, what
        time.sleep(LOOK_S)
    return found


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
    with own_network():
        opened = Project(podman, image)
        opened.run("up", "--detach", *SERVICES)
        yield opened
        opened.run("down", "--volumes", "--timeout", "5")


def test_it_comes_up_and_tells_when_the_server_is_gone_and_back(project: Project) -> None:
    until(lambda: project.health("server") == 0, "the server is not well")
    doctor = [sys.executable, "-m", "mse_grad_client.cli", "doctor", SERVER]
    said = subprocess.run(doctor, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert said.returncode == 0, said.stdout + said.stderr

    (up,) = until(lambda: series('up{job="mse-grad"} == 1'), "Prometheus does not scrape the server")
    assert up["metric"]["instance"] == "this-host"
    until(lambda: series("job:mse_grad_requests:rate5m"), "the rules record nothing")
    assert "MseGradDown" not in alerts()

    project.run("stop", "server")
    until(lambda: "MseGradDown" in alerts(), "the alert of a server that is gone did not come")
    project.run("start", "server")
    until(lambda: "MseGradDown" not in alerts(), "the alert of a server that is back did not go")
