"""The image `cpu`, built and run as deploy/ runs it. For `make image-test` alone: it needs podman or docker.

Environment: CONTAINER_TOOL, "podman" or "docker", else the first of them that is here; IMAGE_BUILD_FLAGS for `build`.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from mse_grad_client import MseGradClient
from support.host import PATIENCE_S, until
from support.operands import expected, operands

pytestmark = pytest.mark.timeout(1800)

ROOT = Path(__file__).parents[2]
TAG = "mse-grad:image-test"
RESTRICTED = ["--network", "host", "--read-only", "--cap-drop", "all", "--security-opt", "no-new-privileges"]
TOOL = os.environ.get("CONTAINER_TOOL") or ("podman" if shutil.which("podman") else "docker")


def tool(*arguments: str) -> str:
    """Runs the container tool; returns both of its streams."""
    ended = subprocess.run([TOOL, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    assert ended.returncode == 0, f"{shlex.join([TOOL, *arguments])}\n{ended.stdout}"
    return ended.stdout


class Container:
    """One that runs the server on a free port of the host's loopback."""

    def __init__(self) -> None:
        flags = ["--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0"]
        self.name = tool("run", "--detach", *RESTRICTED, TAG, *flags).split()[-1]

    def events(self, name: str) -> list[dict[str, Any]]:
        """Returns the lines of its log with this event, oldest first."""
        lines = [json.loads(line) for line in tool("logs", self.name).splitlines() if line.startswith("{")]
        return [line for line in lines if line["event"] == name]

    def address(self, *, start: int = 1) -> str:
        """Returns where it serves, once it has started `start` times."""
        return str(until(lambda: self.events("ready")[start - 1 :])[0]["listen"])

    def is_busy(self) -> bool:
        """Whether it has accepted a request that it has not answered."""
        page = f"http://{self.events('ready')[-1]['metrics_listen']}/metrics"
        with urllib.request.urlopen(page, timeout=PATIENCE_S) as answer:
            return re.search(rb"^mse_grad_in_flight_requests [1-9]", answer.read(), re.MULTILINE) is not None

    def run(self, *command: str) -> str:
        """Runs a command in it; returns what that printed."""
        return tool("exec", self.name, *command)


@pytest.fixture(scope="module")
def image() -> str:
    flags = shlex.split(os.environ.get("IMAGE_BUILD_FLAGS", ""))
    tool("build", *flags, "--target", "cpu", "--tag", TAG, str(ROOT))
    return TAG


@pytest.fixture
def container(image: str) -> Iterator[Container]:
    started = Container()
    yield started
    tool("rm", "--force", started.name)


def computes(address: str) -> bool:
    given = operands((1000,))
    with MseGradClient(address) as client:
        return client.compute(*given, timeout_s=PATIENCE_S).tobytes() == expected(*given).tobytes()


def test_it_answers_from_outside_and_says_that_it_is_well(container: Container) -> None:
    address = container.address()
    assert computes(address)
    health = ["python3", "/opt/mse-grad/bin/mse-grad-health"]
    tool("exec", "--env", f"MSE_GRAD_LISTEN={address}", container.name, *health)
    with pytest.raises(AssertionError, match=r"UNAVAILABLE|DEADLINE_EXCEEDED"):
        tool("exec", "--env", "MSE_GRAD_LISTEN=127.0.0.1:1", container.name, *health)


def test_it_has_a_name_no_rights_and_nothing_to_write_on(container: Container) -> None:
    assert container.run("id", "--user", "--name").strip() == "mse-grad"
    status = container.run("cat", "/proc/1/status").splitlines()
    assert [line.split()[1] for line in status if line.startswith("CapEff:")] == ["0" * 16]
    with pytest.raises(AssertionError, match="Read-only file system"):
        container.run("touch", "/opt/mse-grad/here")
    assert computes(container.address())
    assert [start["device"] == "numpy" for start in container.events("ready")] == [False]


def test_a_signal_ends_it_after_what_was_accepted(container: Container) -> None:
    given = operands((20_000_000,))
    with MseGradClient(container.address()) as client, ThreadPoolExecutor(3) as threads:
        running = [threads.submit(client.compute, *given, timeout_s=PATIENCE_S) for _ in range(3)]
        until(container.is_busy)
        tool("kill", "--signal", "TERM", container.name)
        answered = [done for done in running if done.exception(PATIENCE_S) is None]
        assert tool("wait", container.name).split()[-1] == "0"
        wanted = expected(*given).tobytes()
        assert all(done.result().tobytes() == wanted for done in answered)
    (draining,) = container.events("draining")
    assert len(answered) >= draining["in_flight_requests"] >= 1


def test_it_serves_again_after_it_was_killed(container: Container) -> None:
    assert computes(container.address())
    tool("kill", container.name)
    tool("wait", container.name)
    tool("start", container.name)
    assert computes(container.address(start=2))
