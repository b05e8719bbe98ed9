"""Server, SDK and command run from their source alone, as vendored code: there is no package metadata."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from mse_grad.version import VERSION
from mse_grad_client import MseGradClient
from support.waiting import PATIENCE_S

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def variables() -> Iterator[dict[str, str]]:
    """Returns an environment in which Python finds our source and the libraries, but no package of ours."""
    with TemporaryDirectory() as libraries:
        for path in Path(sysconfig.get_path("purelib")).iterdir():
            if not path.name.startswith(("mse_grad", "_mse_grad", "_editable")) and path.suffix != ".pth":
                Path(libraries, path.name).symlink_to(path)
        rooms = [str(ROOT / room) for room in ("proto", "client", "kernel", "server")]
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("MSE_GRAD_")}
        yield {**inherited, "PYTHONPATH": os.pathsep.join([*rooms, libraries])}


def run(variables: dict[str, str], *command: str) -> subprocess.CompletedProcess[str]:
    # -S leaves out the folder of installed packages.
    whole = [sys.executable, "-S", *command]
    return subprocess.run(whole, env=variables, capture_output=True, text=True, timeout=PATIENCE_S, check=False)


def test_there_is_no_metadata(variables: dict[str, str]) -> None:
    ended = run(variables, "-c", "from importlib import metadata; metadata.version('mse-grad')")
    assert "PackageNotFoundError" in ended.stderr


@pytest.mark.parametrize("module", ["mse_grad_server", "mse_grad_cli.main"])
def test_the_commands_say_their_version(module: str, variables: dict[str, str]) -> None:
    ended = run(variables, "-m", module, "--version")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert VERSION in ended.stdout


def test_a_server_serves_and_the_doctor_says_what_it_cannot_know(variables: dict[str, str]) -> None:
    with TemporaryDirectory() as folder:
        address = f"unix:{folder}/s"
        command = [sys.executable, "-S", "-m", "mse_grad_server", "--listen", address, "--metrics-listen", "none"]
        with subprocess.Popen(command, env=variables, stderr=subprocess.PIPE, text=True) as server:
            try:
                with MseGradClient(address) as client:
                    assert client.wait_ready(PATIENCE_S).version == VERSION
                ended = run(variables, "-m", "mse_grad_cli.main", "doctor", address)
                assert ended.returncode == 0, ended.stdout + ended.stderr
                assert "mse-grad runs without being installed" in " ".join(ended.stdout.split())
                server.send_signal(signal.SIGTERM)
                _, log = server.communicate(timeout=PATIENCE_S)
                assert server.returncode == 0, log
            finally:
                server.kill()
