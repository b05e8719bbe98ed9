from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from support.tools import require_program

ROOM = Path(__file__).resolve().parents[2] / "proto"
# The package index and Node's registry may be slow; a test that hangs is stopped by this.
INSTALL_TIMEOUT_S = 600

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def tools_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of a separate environment with the generator's tools and nothing of this repository."""
    folder = tmp_path_factory.mktemp("tools")
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run(
        [*install, "grpcio-tools==1.76.0", "googleapis-common-protos"], check=True, timeout=INSTALL_TIMEOUT_S
    )
    return python


@pytest.fixture
def room(tmp_path: Path) -> Path:
    """A copy of proto/ that a test may spoil."""
    return shutil.copytree(ROOM, tmp_path / "proto", ignore=shutil.ignore_patterns("__pycache__"))


def check(python: Path, room: Path) -> subprocess.CompletedProcess[str]:
    return run([str(python), str(room / "generate.py"), "--check"])


def lint(room: Path) -> subprocess.CompletedProcess[str]:
    require_program("npx")
    return run([sys.executable, str(room / "lint.py")])


def run(command: list[str]) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=INSTALL_TIMEOUT_S, env=environment
    )


def test_the_committed_modules_are_those_of_the_sources(tools_python: Path) -> None:
    checked = check(tools_python, ROOM)
    assert (checked.returncode, checked.stderr) == (0, "")


def test_a_changed_source_makes_the_modules_stale(tools_python: Path, room: Path) -> None:
    source = room / "mse_grad" / "v1" / "mse_grad.proto"
    source.write_text(
        source.read_text().replace("bool fallback = 4;", "bool fallback = 4;\n  // More.\n  bool more = 5;")
    )
    checked = check(tools_python, room)
    assert checked.returncode == 1
    assert "proto/mse_grad/v1/mse_grad_pb2.py is stale: run `make generate`" in checked.stderr


def test_a_changed_module_is_stale(tools_python: Path, room: Path) -> None:
    with (room / "mse_grad" / "v1" / "mse_grad_pb2.pyi").open("a") as module:
        module.write("# by hand\n")
    checked = check(tools_python, room)
    assert (checked.returncode, checked.stderr) == (
        1,
        "proto/mse_grad/v1/mse_grad_pb2.pyi is stale: run `make generate`\n",
    )


def test_generating_makes_the_modules_fresh(tools_python: Path, room: Path) -> None:
    (room / "mse_grad" / "v1" / "mse_grad_pb2_grpc.py").unlink()
    assert check(tools_python, room).returncode == 1
    generated = run([str(tools_python), str(room / "generate.py")])
    assert (generated.returncode, generated.stderr) == (0, "")
    assert check(tools_python, room).returncode == 0


def test_the_sources_pass_buf_lint(room: Path) -> None:
    linted = lint(room)
    assert (linted.returncode, linted.stdout) == (0, ""), linted.stderr


@pytest.fixture
def history(room: Path, tmp_path: Path) -> Path:
    """The copy of proto/ with one commit of its own."""
    git = require_program("git")
    identity = ["-c", "user.name=test", "-c", "user.email=test@localhost"]
    for arguments in (["init", "--quiet"], ["add", "proto"], [*identity, "commit", "--quiet", "-m", "one"]):
        subprocess.run([git, *arguments], cwd=tmp_path, check=True)
    subprocess.run([git, *identity, "tag", "v1"], cwd=tmp_path, check=True)
    return room


def breaking(room: Path) -> subprocess.CompletedProcess[str]:
    require_program("npx")
    return run([sys.executable, str(room / "lint.py"), "breaking"])


def test_the_sources_break_no_client_of_the_last_release() -> None:
    checked = breaking(ROOM)
    assert (checked.returncode, checked.stdout) == (0, ""), checked.stderr


def test_a_further_field_breaks_no_client_and_another_number_does(history: Path) -> None:
    source = history / "mse_grad" / "v1" / "mse_grad.proto"
    text = source.read_text()
    sound = "bool fallback = 4;"
    source.write_text(text.replace(sound, f"{sound}\n  // More.\n  bool more = 5;"))
    checked = breaking(history)
    assert (checked.returncode, checked.stdout) == (0, ""), checked.stderr
    source.write_text(text.replace(sound, "bool fallback = 6;"))
    checked = breaking(history)
    assert checked.returncode != 0
    assert "fallback" in checked.stdout, checked.stdout + checked.stderr


@pytest.mark.parametrize(
    ("sound", "spoilt", "rule"),
    [
        ("// Gradients of ranges.", "", "should have a non-empty comment"),
        ("DATA_TYPE_FLOAT32 = 1;", "FLOAT32 = 1;", "should be prefixed"),
    ],
    ids=["no comment", "enum value without prefix"],
)
def test_buf_lint_finds_a_broken_rule(room: Path, sound: str, spoilt: str, rule: str) -> None:
    source = room / "mse_grad" / "v1" / "mse_grad.proto"
    text = source.read_text()
    assert sound in text
    source.write_text(text.replace(sound, spoilt))
    linted = lint(room)
    assert linted.returncode != 0
    assert rule in linted.stdout, linted.stdout + linted.stderr
