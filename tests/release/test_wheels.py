"""Files of a release: what `make wheels` reads and refuses; the slow test builds and uses all of them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from mse_grad.version import VERSION
from support.tools import require_module, require_program
from tools.wheels import GLIBC, WheelError, glibc_needed

ROOT = Path(__file__).parents[2]
LIBRARY = "mse_grad_kernel/libmse_loss_grad_cpu.so"
# Machines of ELF, by the architecture of the wheel.
MACHINES = {"x86_64": 62, "aarch64": 183}


def report(tag: str) -> str:
    return f'\nx-linux.whl is\nconsistent with the following\nplatform tag: "{tag}".\n\nThe wheel references ...'


@pytest.mark.parametrize(("tag", "version"), [("manylinux_2_17_x86_64", (2, 17)), ("manylinux_2_34_aarch64", (2, 34))])
def test_the_glibc_that_a_wheel_needs_is_read_from_the_report(tag: str, version: tuple[int, int]) -> None:
    assert glibc_needed(report(tag)) == version


def test_a_wheel_that_needs_more_than_glibc_is_refused() -> None:
    with pytest.raises(WheelError, match="names no tag of manylinux"):
        glibc_needed(report("linux_x86_64"))


def test_the_oldest_glibc_is_that_of_the_documentation() -> None:
    guide = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert f"glibc {GLIBC[0]}.{GLIBC[1]} or" in " ".join(guide.split())


@pytest.mark.parametrize("name", ["requirements.txt", "requirements-build.txt"])
def test_every_locked_package_has_hashes_and_one_version_for_a_python(name: str) -> None:
    text = (ROOT / "deploy" / name).read_text(encoding="utf-8")
    entries = re.findall(
        r"^([\w.\[\]-]+)==([\w.+!]+)[^\n]*\\\n((?:    --hash=sha256:[0-9a-f]{64}.*\n)+)", text, re.MULTILINE
    )
    lines = [line for line in text.splitlines() if line and not line.startswith((" ", "#"))]
    assert len(entries) == len(lines) > 0
    assert len(set(entries)) == len(entries)


def test_the_lock_has_every_package_that_the_image_asks_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    asked = [*project["dependencies"], *extras["server"], *extras["cli"]]
    names = {re.split(r"[\[<>=]", package)[0].lower().replace("_", "-") for package in asked}
    assert {"grpcio", "click", "structlog"} <= names
    locked = set(re.findall(r"^([\w.-]+)==", (ROOT / "deploy/requirements.txt").read_text(), re.MULTILINE))
    assert names - locked == set()


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the files of a release."""
    require_module("auditwheel")
    for compiler in ("x86_64-linux-gnu-g++", "aarch64-linux-gnu-g++"):
        require_program(compiler)
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run([sys.executable, "-m", "tools.wheels", str(folder)], cwd=ROOT / "tests", check=True)
    return folder


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_file_of_a_release_is_built_and_the_wheel_of_this_machine_serves(dist: Path) -> None:
    stem = f"mse_grad-{VERSION}"
    tags = [f"manylinux_2_28_{architecture}" for architecture in MACHINES]
    wheels = {f"{stem}-py3-none-{tag}.whl" for tag in ("any", *tags)}
    assert {path.name for path in dist.iterdir()} == {f"{stem}.tar.gz", *wheels}
    with zipfile.ZipFile(dist / f"{stem}-py3-none-any.whl") as wheel:
        assert LIBRARY not in wheel.namelist()
    for architecture, machine in MACHINES.items():
        with zipfile.ZipFile(dist / f"{stem}-py3-none-manylinux_2_28_{architecture}.whl") as wheel:
            assert int.from_bytes(wheel.read(LIBRARY)[18:20], "little") == machine
    command = [sys.executable, str(ROOT / "tests/tools/use_wheel.py"), str(dist)]
    used = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert re.search(r"All \d+ checks passed", used), used


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(os.geteuid() != 0, reason="debootstrap needs root")
def test_the_wheel_for_aarch64_serves_in_a_debian_for_aarch64_under_qemu(dist: Path, tmp_path: Path) -> None:
    qemu = require_program("qemu-aarch64")
    root, site = debian_for_aarch64(tmp_path), tmp_path / "site"
    (wheel,) = dist.glob("*_aarch64.whl")
    target = ["--target", str(site), "--only-binary", ":all:", "--implementation", "cp", "--python-version", "3.11"]
    for tag in ("manylinux_2_28_aarch64", "manylinux_2_17_aarch64", "manylinux2014_aarch64"):
        target += ["--platform", tag]
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", *target, f"{wheel}[server]"], check=True)
    command = [qemu, "-L", str(root), str(root / "usr/bin/python3.11"), "-m", "mse_grad_server"]
    flags = ["--listen", "127.0.0.1:0", "--metrics-listen", "none"]
    variables = {"PATH": os.environ["PATH"], "PYTHONPATH": str(site)}
    with subprocess.Popen([*command, *flags], env=variables, stderr=subprocess.PIPE, text=True) as server:
        try:
            assert server.stderr is not None
            ready = next(json.loads(line) for line in server.stderr if '"event": "ready"' in line)
            assert ready["device"] == "neon"
            verify = [sys.executable, "-m", "mse_grad_cli.main", "verify", "--quick", ready["listen"]]
            verified = subprocess.run(verify, check=True, capture_output=True, text=True).stdout
            assert re.search(r"All \d+ checks passed", verified), verified
        finally:
            server.terminate()


def debian_for_aarch64(folder: Path) -> Path:
    """Unpacks Python of Debian 12 for aarch64 and all that it needs into a new folder of `folder`; returns it."""
    downloaded, root = folder / "packages", folder / "root"
    bootstrap = [require_program("debootstrap"), "--download-only", "--arch=arm64", "--variant=minbase"]
    listed = ["--include=python3", "bookworm", str(downloaded)]
    subprocess.run([*bootstrap, *listed], check=True, capture_output=True)
    for package in sorted(downloaded.glob("var/cache/apt/archives/*.deb")):
        subprocess.run(["dpkg-deb", "--extract", str(package), str(root)], check=True)
    return root
