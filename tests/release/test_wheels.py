"""Files of a release: what `make wheels` reads and refuses; the slow test builds and uses all of them."""

from __future__ import annotations

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


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_file_of_a_release_is_built_and_the_wheel_of_this_machine_serves(tmp_path: Path) -> None:
    require_module("auditwheel")
    for compiler in ("x86_64-linux-gnu-g++", "aarch64-linux-gnu-g++"):
        require_program(compiler)
    subprocess.run([sys.executable, "-m", "tools.wheels", str(tmp_path)], cwd=ROOT / "tests", check=True)
    stem = f"mse_grad-{VERSION}"
    tags = [f"manylinux_2_28_{architecture}" for architecture in MACHINES]
    wheels = {f"{stem}-py3-none-{tag}.whl" for tag in ("any", *tags)}
    assert {path.name for path in tmp_path.iterdir()} == {f"{stem}.tar.gz", *wheels}
    with zipfile.ZipFile(tmp_path / f"{stem}-py3-none-any.whl") as wheel:
        assert LIBRARY not in wheel.namelist()
    for architecture, machine in MACHINES.items():
        with zipfile.ZipFile(tmp_path / f"{stem}-py3-none-manylinux_2_28_{architecture}.whl") as wheel:
            assert int.from_bytes(wheel.read(LIBRARY)[18:20], "little") == machine
    command = [sys.executable, str(ROOT / "tests/tools/use_wheel.py"), str(tmp_path)]
    used = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert re.search(r"All \d+ checks passed", used), used
