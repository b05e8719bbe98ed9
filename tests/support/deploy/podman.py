"""Podman with its own storage and settings, so that the host's images, containers and limits do not matter.

It needs root, runc and a kernel that lets this process mount file systems and create namespaces; the tests fail without
any of them.
"""

from __future__ import annotations

import os
import resource
import shlex
import shutil
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from support.waiting import PATIENCE_S

__all__ = ["Podman", "running_podman"]

# vfs copies whole layers, if the kernel or the file system below has no overlays.
_DRIVERS = ("overlay", "vfs")
# Below the limits of a host without CAP_SYS_RESOURCE; podman's own default is above them.
_MOST_FILES = _MOST_PROCESSES = 4096
_CERTIFICATES = "/run/host-certificates.crt"


class Podman:
    """Runs podman; made by `running_podman`.

    Attributes:
        environment: Variables with which other programs, such as podman-compose, start podman on the same storage.
        build_flags: Flags with which `build` reaches everything that pip reaches on this host.
    """

    def __init__(self, folder: Path, driver: str) -> None:
        """Takes an empty folder with a short name, and the driver of the storage."""
        self._folder = folder
        storage, settings = folder / "storage.conf", folder / "containers.conf"
        storage.write_text(
            f'[storage]\ndriver = "{driver}"\ngraphroot = "{folder}/storage"\nrunroot = "{folder}/run"\n'
        )
        files = min(_MOST_FILES, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
        settings.write_text(
            f'[containers]\ndefault_ulimits = ["nofile={files}:{files}", "nproc={_MOST_PROCESSES}:{_MOST_PROCESSES}"]\n'
            '[engine]\ncgroup_manager = "cgroupfs"\nevents_logger = "file"\nruntime = "runc"\n'
            f'tmp_dir = "{folder}/libpod"\n'
        )
        self.environment = {
            **os.environ,
            "CONTAINERS_CONF": str(settings),
            "CONTAINERS_STORAGE_CONF": str(storage),
        }
        self.build_flags = ["--network", "host", *self._as_pip_of_this_host()]

    def run(self, *arguments: str, cwd: Path | None = None) -> str:
        """Runs `podman` with `arguments`; returns its standard output. If it fails, the error shows both streams."""
        return self.succeed("podman", *arguments, cwd=cwd)

    def succeed(self, *command: str, cwd: Path | None = None) -> str:
        """Runs a command that starts podman, in the same way."""
        ended = subprocess.run(command, env=self.environment, cwd=cwd, capture_output=True, text=True, check=False)
        assert ended.returncode == 0, f"{shlex.join(command)}: {ended.returncode}\n{ended.stdout}{ended.stderr}"
        return ended.stdout

    def log(self, container: str) -> str:
        """Returns the output of a container on both streams."""
        command = ["podman", "logs", container]
        both = subprocess.STDOUT
        return subprocess.run(
            command, env=self.environment, stdout=subprocess.PIPE, stderr=both, text=True, check=True
        ).stdout

    def close(self) -> None:
        """Ends the containers and removes their mounts."""
        self.run("rm", "--all", "--force", "--time", "0")
        mounted = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
        for path in reversed(mounted):
            if path.startswith(f"{self._folder}/"):
                subprocess.run(["umount", path], check=True)

    def _as_pip_of_this_host(self) -> list[str]:
        flags = []
        listed = subprocess.run(
            [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True
        )
        given = {line.split("=", 1)[0].rsplit(".", 1)[-1]: line.split("=", 1)[1] for line in listed.stdout.splitlines()}
        settings = [f"index-url = {given['index-url']}"] if "index-url" in given else []
        certificates = os.environ.get("PIP_CERT") or ssl.get_default_verify_paths().cafile
        if certificates is not None:
            settings.append(f"cert = {_CERTIFICATES}")
            flags += ["--volume", f"{certificates}:{_CERTIFICATES}:ro"]
        config = self._folder / "pip.conf"
        config.write_text("\n".join(["[global]", *settings, ""]).replace("'", ""))
        return [*flags, "--volume", f"{config}:/etc/pip.conf:ro"]


@contextmanager
def running_podman() -> Iterator[Podman]:
    """Yields podman with the first driver that works here, and in the end removes everything that it created."""
    for program in ("podman", "runc"):
        assert shutil.which(program), f"{program} is not installed"
    assert os.geteuid() == 0, "containers are built and run as root here"
    # A short name: podman puts sockets into this folder, and the path of a socket has at most 108 bytes.
    folder = Path(tempfile.mkdtemp(prefix="podman-"))
    try:
        podman = _first_that_works(folder)
        try:
            yield podman
        finally:
            podman.close()
    finally:
        _remove(folder)


def _remove(folder: Path) -> None:
    # Processes that podman starts after a container has ended may still write there for a moment.
    give_up_s = time.monotonic() + PATIENCE_S
    while folder.exists():
        shutil.rmtree(folder, ignore_errors=time.monotonic() < give_up_s)


def _first_that_works(folder: Path) -> Podman:
    refusals = []
    for driver in _DRIVERS:
        (folder / driver).mkdir()
        podman = Podman(folder / driver, driver)
        ended = subprocess.run(["podman", "info"], env=podman.environment, capture_output=True, text=True, check=False)
        if ended.returncode == 0:
            return podman
        refusals.append(f"{driver}: {ended.stderr}")
    raise AssertionError("podman cannot keep images here\n" + "\n".join(refusals))
