"""The image `cpu`, built and run as deploy/ runs it. For `make image-test` alone: it needs podman and root."""

from __future__ import annotations

import json
import re
import shutil
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from mse_grad_client import MseGradClient
from support.host import PATIENCE_S, until
from support.operands import expected, operands
from support.podman import Podman
from support.simulator import require_simulator
from support.toolkit import executable, lay_out

from .conftest import ROOT, Image

pytestmark = pytest.mark.timeout(900)

# Podman would mount a tmpfs on /tmp and others; docker does not.
READ_ONLY = ["--read-only", "--read-only-tmpfs=false"]
RESTRICTED = ["--network", "host", *READ_ONLY, "--cap-drop", "all", "--security-opt", "no-new-privileges"]
DRAIN_S = 20
# Of the packages of Python and Debian that the image brings along, without its base.
MOST_ADDED_BYTES = 240e6


class Container:
    """One that runs the server on a free port of the host's loopback."""

    def __init__(self, podman: Podman, tag: str, *flags: str, options: Sequence[str] = ()) -> None:
        given = ["--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0", "--drain-timeout-s", str(DRAIN_S)]
        self.podman = podman
        self.name = podman.run("run", "--detach", *RESTRICTED, *options, tag, *given, *flags).strip()

    def events(self, name: str) -> list[dict[str, Any]]:
        """Returns the lines of its log with this event, oldest first."""
        lines = [json.loads(line) for line in self.podman.log(self.name).splitlines() if line.startswith("{")]
        return [line for line in lines if line["event"] == name]

    def address(self, *, start: int = 1) -> str:
        """Returns where it serves, once it has started `start` times."""

        def ready() -> list[dict[str, Any]]:
            return [event for event in self.events("ready") if "worker" not in event]

        return str(until(lambda: ready()[start - 1 :])[0]["listen"])

    def is_busy(self) -> bool:
        """Whether it has accepted a request that it has not answered."""
        page = f"http://{self.events('ready')[-1]['metrics_listen']}/metrics"
        with urllib.request.urlopen(page, timeout=PATIENCE_S) as answer:
            return re.search(rb"^mse_grad_in_flight_requests [1-9]", answer.read(), re.MULTILINE) is not None

    def run(self, *command: str, environment: str = "NONE=") -> str:
        """Runs a command in it; returns what that printed."""
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


def test_it_answers_from_outside_and_says_that_it_is_well(container: Container) -> None:
    address = container.address()
    assert computes(address)
    health = ["python3", "/opt/mse-grad/bin/mse-grad-health"]
    container.run(*health, environment=f"MSE_GRAD_LISTEN={address}")
    with pytest.raises(AssertionError, match=r"UNAVAILABLE|DEADLINE_EXCEEDED"):
        container.run(*health, environment="MSE_GRAD_LISTEN=127.0.0.1:1")


def test_it_has_a_name_no_rights_and_nothing_to_write_on(container: Container) -> None:
    assert container.run("id", "--user", "--name").strip() == "mse-grad"
    status = dict(line.split(":\t", 1) for line in container.run("cat", "/proc/1/status").splitlines())
    assert {status[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {"0" * 16}
    assert (status["NoNewPrivs"], status["Uid"].split()[0]) == ("1", "10001")
    with pytest.raises(AssertionError, match="Read-only file system"):
        container.run("touch", "/tmp/here")
    assert computes(container.address())
    assert [start["device"] == "numpy" for start in container.events("ready")] == [False]


def test_a_signal_ends_it_within_its_bound_after_what_was_accepted(container: Container) -> None:
    given = operands((20_000_000,))
    with MseGradClient(container.address()) as client, ThreadPoolExecutor(3) as threads:
        running = [threads.submit(client.compute, *given, timeout_s=PATIENCE_S) for _ in range(3)]
        until(container.is_busy)
        # SIGTERM, and where it is late SIGKILL, which ends it with 137.
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


def test_it_is_small_labelled_and_asked_for_its_health(podman: Podman, image: Image) -> None:
    (found,) = json.loads(podman.run("image", "inspect", image.tag))
    (base,) = json.loads(podman.run("image", "inspect", image.base))
    print(f"{found['Size'] / 1e6:.0f} MB on a base of {base['Size'] / 1e6:.0f} MB")
    assert found["Size"] - base["Size"] < MOST_ADDED_BYTES
    config = found["Config"]
    assert (config["User"], config["StopSignal"]) == ("10001:10001", "SIGTERM")
    assert config["Entrypoint"] == ["mse-grad-server"]
    names = {"title", "description", "version", "licenses"}
    assert {f"org.opencontainers.image.{name}" for name in names} <= set(config["Labels"])
    assert found["Healthcheck"]["Test"][-1].endswith("mse-grad-health")


def test_the_list_of_contents_has_the_packages_of_debian_and_of_python(container: Container, image: Image) -> None:
    parts = json.loads(image.contents.read_text())["components"]
    listed = {unquote(part["purl"]).split("?")[0] for part in parts if "purl" in part}
    python = "from importlib.metadata import distributions as all;print(*(f'{d.name}@{d.version}' for d in all()))"
    installed = container.run("python3", "-c", python).lower().replace("_", "-").split()
    assert "mse-grad@0.1.0" in installed
    assert {f"pkg:pypi/{name}" for name in installed} <= listed
    debian = container.run("dpkg-query", "--show", "--showformat", "${Package}\n").split()
    assert "libc6" in debian
    assert set(debian) <= {purl.split("/")[2].split("@")[0] for purl in listed if purl.startswith("pkg:deb/")}


# Sourced by both stages of the image, as the toolkit's own is.
SET_ENV = """export ASCEND_HOME_PATH=/usr/local/Ascend/ascend-toolkit
export INSTALLER=$ASCEND_HOME_PATH/installer LD_LIBRARY_PATH=$ASCEND_HOME_PATH/lib64
"""
INSTALLER = """#!/bin/sh -e
package=${1#--install-path=}/vendors/mse_grad
mkdir -p "$package/bin" "$package/op_api/lib"
cp "$ASCEND_HOME_PATH/libcust_opapi.so" "$package/op_api/lib"
echo "export ASCEND_CUSTOM_OPP_PATH=$package" > "$package/bin/set_env.bash"
"""


@pytest.fixture
def ascend_image(podman: Podman, image: Image, tmp_path: Path) -> str:
    """The target `ascend` on a stand-in for CANN's image, in which NPUs are simulated."""
    libraries = require_simulator()
    toolkit = lay_out(tmp_path / "ascend-toolkit")
    (toolkit / "lib64").mkdir()
    for name in ("libascendcl.so", "libnnopbase.so"):
        shutil.copy(libraries / name, toolkit / "lib64")
    shutil.copy(libraries / "libcust_opapi.so", toolkit)
    (toolkit / "set_env.sh").write_text(SET_ENV)
    executable(toolkit / "installer", INSTALLER)
    recipe = ["--file", str(Path(__file__).parent / "cann.Dockerfile"), "--build-arg", f"DEBIAN_IMAGE={image.base}"]
    podman.run("build", *podman.build_flags, *recipe, "--tag", "localhost/cann:stand-in", str(tmp_path))
    tag = "localhost/mse-grad:ascend"
    on_top = ["--target", "ascend", "--build-arg", "CANN_IMAGE=localhost/cann:stand-in"]
    podman.run("build", *podman.build_flags, *on_top, "--tag", tag, str(ROOT))
    return tag


def test_the_image_ascend_finds_toolkit_and_operators_and_serves_with_a_worker_for_each_npu(
    podman: Podman, ascend_image: str
) -> None:
    options = ["--env", "ASCEND_SIMULATOR_DEVICES=2", "--tmpfs", "/run/ascend:mode=1777"]
    started = Container(podman, ascend_image, "--devices", "0-1", "--ready-when", "all", options=options)
    assert computes(started.address())
    opened = started.events("device_opened")
    assert {event["worker"] for event in opened} == {"npu:0", "npu:1"}
    assert {event["op_library"] for event in opened} == {
        "/opt/mse-grad-op/vendors/mse_grad/op_api/lib/libcust_opapi.so"
    }
    podman.run("stop", "--time", str(2 * DRAIN_S), started.name)
    assert podman.run("wait", started.name).strip() == "0"
