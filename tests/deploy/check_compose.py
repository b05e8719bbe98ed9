"""The compose files, brought up by podman-compose at the addresses that they name. For `make image-test` alone.

The server is the image `cpu`; Prometheus and Alertmanager are those of this machine, in images of their own. Grafana
stays out.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pytest

from support.own_network import own_network
from support.podman import Podman
from support.prometheus import DEPLOY

from .conftest import ROOT, Image

pytestmark = pytest.mark.timeout(900)

SERVER = "127.0.0.1:50051"
# Debian's Alertmanager does not start without.
TEMPLATES = "/usr/share/prometheus/alertmanager"
SERVICES = ("server", "prometheus", "alertmanager")
# An alert is to wait for a scrape, for its minute, and for Alertmanager.
PATIENCE_S = 240.0
LOOK_S = 0.5
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
        """Runs podman-compose with further files `on_top`; returns its standard output."""
        self._podman.environment.update(variables)
        flags = ["--env-file", str(DEPLOY / ".env.example")]
        flags += [
            flag for name in ("compose.yaml", "compose.cpu.yaml", *on_top) for flag in ("--file", str(DEPLOY / name))
        ]
        return self._podman.succeed(sys.executable, "-m", "podman_compose", *flags, *arguments, cwd=DEPLOY)

    def health(self, service: str) -> int:
        """Runs the health check of a service, as compose would; returns how it ended."""
        command = ["podman", "healthcheck", "run", f"mse-grad_{service}_1"]
        return subprocess.run(command, env=self._podman.environment, capture_output=True, check=False).returncode


def asked(url: str) -> Any:
    """Returns the JSON at `url`, None where nobody answers."""
    try:
        with urllib.request.urlopen(f"http://{url}", timeout=ANSWER_S) as answer:
            return json.load(answer)
    except OSError:
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


def doctor(*flags: str) -> int:
    """Has a client look at the way to a right gradient; returns how that ended."""
    command = [sys.executable, "-m", "mse_grad_client.cli", "doctor", *flags, SERVER]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    print(ended.stdout, ended.stderr)
    return ended.returncode


def transport() -> str:
    """Returns how a gradient's operands reach the server."""
    program = "import sys, mse_grad_client as sdk; print(sdk.MseGradClient(sys.argv[1]).server_info().transport)"
    command = [sys.executable, "-c", program, SERVER]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=True).stdout.strip()


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


def test_it_comes_up_and_tells_when_the_server_is_gone_and_back(project: Project) -> None:
    until(lambda: project.health("server") == 0, "the server is not well")
    assert doctor() == 0
    # A client on the host, root as server.env lets it, and not the user of the container.
    assert transport() == "shared_memory"
    (up,) = until(lambda: series('up{job="mse-grad"} == 1'), "Prometheus does not scrape the server")
    assert up["metric"]["instance"] == "this-host"
    until(lambda: series("job:mse_grad_requests:rate5m"), "the rules record nothing")
    assert "MseGradDown" not in alerts()

    project.run("stop", "server")
    until(lambda: "MseGradDown" in alerts(), "the alert of a server that is gone did not come")
    project.run("start", "server")
    until(lambda: "MseGradDown" not in alerts(), "the alert of a server that is back did not go")


def test_it_serves_over_tls_whoever_has_a_token(project: Project, tmp_path: Path) -> None:
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / "docs/deploying.md").read_text(), re.DOTALL)
    (commands,) = [block for block in blocks if "openssl req" in block]
    subprocess.run(["sh", "-e", "-c", f"{commands}\nchown -R 10001 secrets/server"], cwd=tmp_path, check=True)
    secrets = tmp_path / "secrets"
    on_top = ["compose.tls.yaml"]
    project.run("up", "--detach", "server", on_top=on_top, MSE_GRAD_SECRETS=str(secrets / "server"))
    until(lambda: project.health("server") == 0, "the server is not well")
    trust = ["--tls-ca", str(secrets / "ca/ca.pem")]
    assert doctor(*trust, "--token-file", str(secrets / "server/tokens")) == 0
    assert doctor(*trust) != 0
    assert doctor() != 0
