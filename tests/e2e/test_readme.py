"""Facts in README.md, CONTRIBUTING.md and docs/, checked against the code."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import mse_grad_client
import mse_grad_client.errors
from mse_grad.reasons import Reason
from mse_grad_cli.commands import mse_grad
from mse_grad_server.process.exits import ExitCode
from support.server.host_process import metrics
from support.server.server_process import ServerProcess, running_server
from support.tools import require_module
from support.waiting import PATIENCE_S
from tools import settings_page

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
DOCUMENTS = {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in ROOT.glob("docs/**/*.md")}
CHINESE = (ROOT / "README.zh.md").read_text(encoding="utf-8")
DOCUMENTS |= {"README.md": README, "README.zh.md": CHINESE, "CONTRIBUTING.md": CONTRIBUTING}
# The Python blocks of these pages are whole programs. Those of docs/tutorial.md and of Chinese pages run elsewhere, or
# are the same.
PROGRAMS = ("README.md", "docs/sdk.md", "docs/errors.md", "docs/start/sdk.md")
MOST_LINES = 130
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))


def python_blocks() -> dict[str, str]:
    return {
        f"{name}-{number}": block
        for name in PROGRAMS
        for number, block in enumerate(re.findall(r"```python\n(.*?)```", DOCUMENTS[name], re.DOTALL))
    }


def code_of(text: str) -> str:
    """Returns fenced blocks and spans between backticks, which hold the commands and paths."""
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


@pytest.mark.parametrize("name", sorted(DOCUMENTS))
def test_every_link_to_a_heading_leads_to_one(name: str) -> None:
    for file, anchor in re.findall(r"\]\(([\w./-]*\.md)?#([\w-]+)\)", DOCUMENTS[name]):
        target = (ROOT / name).parent / file if file else ROOT / name
        assert anchor in anchors_of(target.read_text(encoding="utf-8")), f"{file}#{anchor}"


def anchors_of(text: str) -> set[str]:
    headings = re.findall(r"^#+ (.*)", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_readme_stays_short() -> None:
    assert len(README.splitlines()) <= MOST_LINES


def test_the_readme_and_the_pages_of_the_sdk_show_code() -> None:
    assert {name.rpartition("-")[0] for name in python_blocks()} == set(PROGRAMS)


def blocks_to_run() -> Iterator[Any]:
    """Yields the name of each block; one that needs more than `make test` installs is slow."""
    for name, block in python_blocks().items():
        yield pytest.param(name, marks=pytest.mark.slow) if "import torch" in block else name


@pytest.mark.parametrize("name", list(blocks_to_run()))
def test_every_python_block_runs(name: str, server: ServerProcess) -> None:
    if "import torch" in python_blocks()[name]:
        require_module("torch")
    program = python_blocks()[name].replace("127.0.0.1:50051", server.address)
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stderr
    for line in re.findall(r"print\(.*\)  # (.*)", program):
        assert line in ended.stdout.splitlines()


@pytest.mark.slow
def test_every_step_of_the_tutorial_works(server: ServerProcess, tmp_path: Path) -> None:
    tutorial = DOCUMENTS["docs/tutorial.md"].replace("127.0.0.1:50051", server.address)
    programs = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    variables = {**os.environ, "MSE_GRAD_ADDR": server.address, "PATH": programs}
    steps = re.findall(r"```(python|sh)\n(.*?)```", tutorial, re.DOTALL)
    assert len(steps) == 8
    for language, step in steps:
        command = [sys.executable, "-c", step] if language == "python" else ["sh", "-euc", step]
        ended = subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, text=True, timeout=PATIENCE_S)
        assert ended.returncode == 0, f"{step}\n{ended.stdout}{ended.stderr}"
        for line in re.findall(r"print\(.*\)  # (.*)", step):
            assert line in ended.stdout.splitlines()


def test_the_reference_has_every_public_name_of_the_sdk() -> None:
    shown = set(re.findall(r"^::: mse_grad_client\.(\w+)$", DOCUMENTS["docs/reference/sdk.md"], re.MULTILINE))
    assert shown == set(mse_grad_client.__all__)


def test_the_help_texts_are_of_every_command() -> None:
    shown = re.findall(r"^<!-- help: mse-grad (\w+) -->$", DOCUMENTS["docs/reference/help.md"], re.MULTILINE)
    assert sorted(shown) == sorted(mse_grad.commands)


def test_the_settings_of_the_document_are_those_of_the_server() -> None:
    page = settings_page.PAGE.read_text(encoding="utf-8")
    assert page == settings_page.page_with_tables(page), "stale: PYTHONPATH=tests python -m tools.settings_page"


def test_the_reasons_of_the_document_are_those_of_the_contract() -> None:
    rows = re.findall(r"^\| `([A-Z_]+)` \| ([A-Z_]+) \| (yes)? ?\|", DOCUMENTS["docs/errors.md"], re.MULTILINE)
    expected = [(reason.value, reason.code.name, "yes" if reason.retryable else "") for reason in Reason]
    assert rows == expected


def test_the_exceptions_of_the_document_are_those_of_the_sdk() -> None:
    documented = set(re.findall(r"^\| `([A-Z][a-z]\w+)` \|", DOCUMENTS["docs/errors.md"], re.MULTILINE))
    assert documented | {"MseGradError"} == set(mse_grad_client.errors.__all__) & set(dir(mse_grad_client))


def test_the_metrics_of_the_document_are_those_of_the_server() -> None:
    documented = set(re.findall(r"`(mse_grad_\w+)`", DOCUMENTS["docs/metrics.md"]))
    with running_server("--workers", "1") as host:
        offered = set(re.findall(r"^# TYPE (mse_grad_\w+)", metrics(host), re.MULTILINE))
    assert documented == {name for name in offered if not name.endswith("_created")}


def test_the_exit_codes_of_the_document_are_those_of_the_server() -> None:
    documented = re.findall(r"^\| (\d+) \|", DOCUMENTS["docs/operating.md"], re.MULTILINE)
    assert [int(number) for number in documented] == [int(code) for code in ExitCode]
