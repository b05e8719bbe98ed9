"""The image `cpu`, built and run with the files of deploy/. For `make image-test` only: it needs podman and root."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from mse_grad.version import VERSION
from mse_grad_client import MseGradClient
from support.deploy.podman import Podman
from support.npu.simulator import require_simulator
from support.npu.toolkit import executable, lay_out
from support.values import expected, operands
from support.waiting import PATIENCE_S, wait_until

from .conftest import ROOT, Image, make_image

pytestmark = pytest.mark.timeout(900)

# Podman mounts a tmpfs on /tmp and others by default; docker does not.
READ_ONLY = ["--read-only", "--read-only-tmpfs=false"]
RESTRICTED = ["--network", "host", *READ_ONLY, "--cap-drop", "all", "--security-opt", "no-new-privileges"]
DRAIN_S = 20
# A program that prints the installed packages of Python.
DISTRIBUTIONS = "from importlib.metadata import distributions as all;print(*(f'{d.name}@{d.version}' for d in all()))"
# Bound on the packages of Python and Debian that the image adds to its base.
MOST_ADDED_BYTES = 240e6


class Container:
    """A container that runs the server on a free port of the host's loopback."""

    def __init__(self, podman: Podman, tag: str, *flags: str, options: Sequence[str] = ()) -> None:
        given = ["--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0", "--drain-timeout-s", str(DRAIN_S)]
        self.podman = podman
        self.name = podman.run("run", "--detach", *RESTRICTED, *options, tag, *given, *flags).strip()

    def events(self, name: str) -> list[dict[str, Any]]:
        """Returns the lines of its log with this event, oldest first."""
        lines = [json.loads(line) for line in self.podman.log(self.name).splitlines() if line.startswith("{")]
        return [line for line in lines if line["event"] == name]

    def address(self, *, start: int = 1) -> str:
        """Returns the address of the server, once it has started `start` times."""

        def ready() -> list[dict[str, Any]]:
            return [event for event in self.events("ready") if "worker" not in event]

        return str(wait_until(lambda: ready()[start - 1 :])[0]["listen"])

    def is_busy(self) -> bool:
        """Whether the server has accepted a request that it has not answered."""
        page = f"http://{self.events('ready')[-1]['metrics_listen']}/metrics"
        with urllib.request.urlopen(page, timeout=PATIENCE_S) as answer:
            return re.search(rb"^mse_grad_in_flight_requests [1-9]", answer.read(), re.MULTILINE) is not None

    def run(self, *command: str, environment: str = "NONE=") -> str:
        """Runs a command in the container; returns its output."""
        return self.podman.run("exec", "--env", environment, self.name, *command)


@pytest.fixture
def container(podman: Podman, image: Image) -> Iterator[Container]:
    started = Container(podman, image.tag)
    yield started
    podman.run("rm", "--force", started.name)


def computes(address: str) -> bool:
    given = operands((1000,))
    with MseGradClient(address) as client:
        return client.compute(*given, timeout_s=PATIENCE_S).tobytes() == expected(*given).tobytes()


def test_it_answers_from_outside_and_is_healthy(container: Container) -> None:
    address = container.address()
    assert computes(address)
    health = ["mse-grad-server", "probe"]
    container.run(*health, environment=f"MSE_GRAD_LISTEN={address}")
    with pytest.raises(AssertionError, match=r"UNAVAILABLE|DEADLINE_EXCEEDED"):
        container.run(*health, environment="MSE_GRAD_LISTEN=127.0.0.1:1")


def test_it_has_an_unprivileged_user_and_a_read_only_file_system(container: Container) -> None:
    assert container.run("id", "--user", "--name").strip() == "mse-grad"
    status = dict(line.split(":\t", 1) for line in container.run("cat", "/proc/1/status").splitlines())
    assert {status[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {"0" * 16}
    assert (status["NoNewPrivs"], status["Uid"].split()[0]) == ("1", "10001")
    with pytest.raises(AssertionError, match="Read-only file system"):
        container.run("touch", "/tmp/here")
    assert computes(container.address())
    assert [start["device"] == "numpy" for start in container.events("ready")] == [False]


def test_a_signal_ends_it_within_its_bound_after_the_accepted_requests(container: Container) -> None:
    given = operands((20_000_000,))
    with MseGradClient(container.address()) as client, ThreadPoolExecutor(3) as threads:
        running = [threads.submit(client.compute, *given, timeout_s=PATIENCE_S) for _ in range(3)]
        wait_until(container.is_busy)
        # `stop` sends SIGTERM, and SIGKILL after the bound, with which the exit code is 137.
        container.podman.run("stop", "--time", str(DRAIN_S + 10), container.name)
        assert container.podman.run("wait", container.name).strip() == "0"
        answered = [done for done in running if done.exception(PATIENCE_S) is None]
        wanted = expected(*given).tobytes()
        assert all(done.result().tobytes() == wanted for done in answered)
    (draining,) = container.events("draining")
    assert len(answered) >= draining["in_flight_requests"] >= 1


def test_it_serves_again_after_it_was_killed(container: Container) -> None:
    assert computes(container.address())
    container.podman.run("kill", container.name)
    assert container.podman.run("wait", container.name).strip() == "137"
    container.podman.run("start", container.name)
    assert computes(container.address(start=2))


def test_it_is_small_and_labelled_and_has_a_health_check(podman: Podman, image: Image) -> None:
    (found,) = json.loads(podman.run("image", "inspect", image.tag))
    (base,) = json.loads(podman.run("image", "inspect", image.base))
    print(f"{found['Size'] / 1e6:.0f} MB on a base of {base['Size'] / 1e6:.0f} MB")
    assert found["Size"] - base["Size"] < MOST_ADDED_BYTES
    config = found["Config"]
    assert (config["User"], config["StopSignal"]) == ("10001:10001", "SIGTERM")
    assert config["Entrypoint"] == ["mse-grad-server"]
    names = {"title", "description", "version", "licenses", "revision", "created", "source", "base.name"}
    labels = {name: config["Labels"][f"org.opencontainers.image.{name}"] for name in names}
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert (labels["version"], labels["revision"], labels["base.name"]) == (VERSION, head.strip(), image.base)
    assert labels["created"][:2] == "20"
    assert found["Healthcheck"]["Test"] == ["CMD", "mse-grad-server", "probe"]


def test_it_has_the_locked_packages_and_no_others(container: Container) -> None:
    locked = re.findall(r"^([\w.-]+==[\w.]+)", (ROOT / "deploy/requirements.txt").read_text(), re.MULTILINE)
    installed = container.run("python3", "-c", DISTRIBUTIONS).lower().replace("_", "-").replace("@", "==").split()
    assert set(installed) - set(locked) == {f"mse-grad=={VERSION}"}


def purls(image: Image) -> set[str]:
    """Returns the packages of the list of contents."""
    parts = json.loads(image.contents.read_text())["components"]
    return {unquote(part["purl"]).split("?")[0] for part in parts if "purl" in part}


def test_the_list_of_contents_has_the_packages_of_debian_and_of_python(container: Container, image: Image) -> None:
    listed = purls(image)
    installed = container.run("python3", "-c", DISTRIBUTIONS).lower().replace("_", "-").split()
    assert f"mse-grad@{VERSION}" in installed
    assert {f"pkg:pypi/{name}" for name in installed} <= listed
    debian = container.run("dpkg-query", "--show", "--showformat", "${Package}\n").split()
    assert "libc6" in debian
    assert set(debian) <= {purl.split("/")[2].split("@")[0] for purl in listed if purl.startswith("pkg:deb/")}


# Both stages of the image source it, as they source the real toolkit's.
SET_ENV = """export ASCEND_HOME_PATH=/usr/local/Ascend/cann
export INSTALLER=$ASCEND_HOME_PATH/installer LD_LIBRARY_PATH=$ASCEND_HOME_PATH/lib64
"""
INSTALLER = """#!/bin/sh -e
package=${1#--install-path=}/vendors/mse_grad
mkdir -p "$package/bin" "$package/op_api/lib"
cp "$ASCEND_HOME_PATH/libcust_opapi.so" "$package/op_api/lib"
echo "export ASCEND_CUSTOM_OPP_PATH=$package" > "$package/bin/set_env.bash"
"""


@pytest.fixture(scope="module")
def ascend_image(podman: Podman, image: Image, tmp_path_factory: pytest.TempPathFactory) -> Image:
    """The target `ascend` on a stand-in for CANN's image, in which NPUs are simulated."""
    folder = tmp_path_factory.mktemp("ascend")
    libraries = require_simulator()
    toolkit = lay_out(folder / "cann")
    (toolkit / "lib64").mkdir()
    for name in ("libacl_rt.so", "libnnopbase.so"):
        shutil.copy(libraries / name, toolkit / "lib64")
    shutil.copy(libraries / "libcust_opapi.so", toolkit)
    (toolkit / "set_env.sh").write_text(SET_ENV)
    executable(toolkit / "installer", INSTALLER)
    recipe = ["--file", str(Path(__file__).parent / "cann.Dockerfile"), "--build-arg", f"DEBIAN_IMAGE={image.base}"]
    podman.run("build", *podman.build_flags, *recipe, "--tag", "localhost/cann:stand-in", str(folder))
    bases = [f"--build-arg={argument}=localhost/cann:stand-in" for argument in ("CANN_IMAGE", "CANN_BUILD_IMAGE")]
    return make_image(podman, "ascend", "localhost/cann:stand-in", *bases)


def test_the_list_of_contents_of_the_image_ascend_has_the_packages_of_python(
    podman: Podman, ascend_image: Image
) -> None:
    listed = purls(ascend_image)
    command = ["run", "--rm", "--entrypoint", "/opt/mse-grad/bin/python3", ascend_image.tag, "-c", DISTRIBUTIONS]
    installed = podman.run(*command).lower().replace("_", "-").split()
    assert f"mse-grad@{VERSION}" in installed
    assert {f"pkg:pypi/{name}" for name in installed} <= listed


def test_the_image_ascend_finds_toolkit_and_operators_and_serves_with_a_worker_for_each_npu(
    podman: Podman, ascend_image: Image
) -> None:
    options = ["--env", "ASCEND_SIMULATOR_DEVICES=2", "--tmpfs", "/run/ascend:mode=1777"]
    started = Container(podman, ascend_image.tag, "--devices", "0-1", "--ready-when", "all", options=options)
    assert computes(started.address())
    opened = started.events("device_opened")
    assert {event["worker"] for event in opened} == {"npu:0", "npu:1"}
    assert {event["op_library"] for event in opened} == {
        "/opt/mse-grad-op/vendors/mse_grad/op_api/lib/libcust_opapi.so"
    }
    podman.run("stop", "--time", str(2 * DRAIN_S), started.name)
    assert podman.run("wait", started.name).strip() == "0"
