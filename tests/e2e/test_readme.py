"""What the README and CONTRIBUTING tell a newcomer is so."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from mse_grad_server.exits import ExitCode
from support.host import metrics
from support.server import ServerProcess, running_server

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
DOCUMENTS = {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in ROOT.glob("docs/*.md")}
DOCUMENTS |= {"README.md": README, "CONTRIBUTING.md": CONTRIBUTING}
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))


def python_blocks() -> list[str]:
    return re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def code_of(text: str) -> str:
    """Fenced blocks and spans between backticks: where commands and paths stand."""
    fenced = re.findall(r"```.*?\n(.*?)```", text, re.DOTALL)
    spans = re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    return "\n".join([*fenced, *spans])


@pytest.mark.parametrize("name", sorted(DOCUMENTS))
def test_every_make_target_that_is_named_exists(name: str) -> None:
    named = set(re.findall(r"^make ([a-z-]+)", code_of(DOCUMENTS[name]), re.MULTILINE))
    assert named <= TARGETS


def test_the_readme_names_both_commands() -> None:
    assert {"demo", "test"} <= set(re.findall(r"^make ([a-z-]+)", code_of(README), re.MULTILINE))


@pytest.mark.parametrize("name", sorted(DOCUMENTS))
def test_every_link_to_a_file_leads_somewhere(name: str) -> None:
    folder = (ROOT / name).parent
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", DOCUMENTS[name])
    assert [link for link in links if not (folder / link).exists()] == []


@pytest.mark.parametrize("name", sorted(DOCUMENTS))
def test_every_path_that_is_named_exists(name: str) -> None:
    rooms = r"(?:proto|client|server|kernel|tests|docs)/[\w./-]*\w"
    paths = set(re.findall(rf"(?<![\w/.-]){rooms}", code_of(DOCUMENTS[name])))
    assert {path for path in paths if not (ROOT / path).exists()} == set()


@pytest.mark.parametrize("number", range(len(python_blocks())))
def test_every_python_block_of_the_readme_runs(number: int, server: ServerProcess) -> None:
    program = python_blocks()[number].replace("127.0.0.1:50051", server.address)
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stderr
    for line in re.findall(r"print\(.*\)  # (.*)", program):
        assert line in ended.stdout


def test_every_flag_of_the_readme_is_a_flag_of_the_server() -> None:
    rows = re.findall(r"^\| `(--[a-z-]+)` \|", README, re.MULTILINE)
    offered = subprocess.run(
        [sys.executable, "-m", "mse_grad_server", "--help"], capture_output=True, text=True, timeout=60, check=True
    ).stdout
    assert len(rows) >= 5
    assert [flag for flag in rows if flag not in offered] == []


def test_the_metrics_of_the_document_are_those_of_the_server() -> None:
    documented = set(re.findall(r"`(mse_grad_\w+)`", DOCUMENTS["docs/operating.md"]))
    with running_server("--workers", "1") as host:
        offered = set(re.findall(r"^# TYPE (mse_grad_\w+)", metrics(host), re.MULTILINE))
    assert documented == {name for name in offered if not name.endswith("_created")}


def test_the_exit_codes_of_the_document_are_those_of_the_server() -> None:
    documented = re.findall(r"^\| (\d+) \|", DOCUMENTS["docs/operating.md"], re.MULTILINE)
    assert [int(number) for number in documented] == [int(code) for code in ExitCode]
