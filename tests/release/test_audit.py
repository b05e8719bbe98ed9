"""`make audit` where the packages are not clean, or nobody knows: it fails and says so."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from support.tools import require_program

ROOT = Path(__file__).parents[2]


def audit(environment: Path, *, exit_code: int) -> subprocess.CompletedProcess[str]:
    """Runs `make audit` with a pip-audit that ends with `exit_code`."""
    program = environment / "bin" / "python"
    program.parent.mkdir(parents=True)
    program.write_text(f"#!/bin/sh\necho the words of pip-audit >&2\nexit {exit_code}\n", encoding="utf-8")
    program.chmod(0o755)
    for stamp in ("made", "installed", "installed-audit"):  # in the order of make
        (environment / stamp).touch()
    return subprocess.run(
        [require_program("make"), "-s", "audit", f"VENV={environment}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("exit_code", [1, 2])
def test_an_audit_that_could_not_be_made_fails_and_says_what_that_means(tmp_path: Path, exit_code: int) -> None:
    ended = audit(tmp_path / "environment", exit_code=exit_code)
    assert ended.returncode != 0
    assert "the words of pip-audit" in ended.stderr
    assert "nothing is known about the packages" in ended.stderr


def test_an_audit_that_finds_nothing_says_no_more(tmp_path: Path) -> None:
    ended = audit(tmp_path / "environment", exit_code=0)
    assert ended.returncode == 0
    assert "nothing is known" not in ended.stderr
