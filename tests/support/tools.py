"""Programs that some tests need and a developer's machine may lack."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

import pytest

__all__ = ["refuse", "require_libraries", "require_module", "require_program", "require_root"]


def require_program(name: str) -> str:
    """Returns the path of the program `name`; if it is missing, the test is skipped, or fails if CI is set.

    Args:
        name: As on the command line, e.g. "qemu-aarch64".
    """
    path = shutil.which(name)
    if path is None:
        _miss(name)
    return path


def require_module(name: str) -> None:
    """Skips the test if the Python module `name` is not installed, or fails it if CI is set."""
    if importlib.util.find_spec(name) is None:
        _miss(name)


def require_root() -> None:
    """Skips the test unless this process is root's, or fails it if CI is set."""
    if os.geteuid() != 0:
        refuse("this user is not root")


def require_libraries(program: Path, environment: Mapping[str, str]) -> None:
    """Skips the test if a shared library of `program` is not installed, or fails it if CI is set."""
    listed = subprocess.run(
        [require_program("ldd"), str(program)], capture_output=True, text=True, check=True, env=environment
    ).stdout
    missing = [line.split()[0] for line in listed.splitlines() if "not found" in line]
    if missing:
        _miss(", ".join(missing))


def _miss(name: str) -> NoReturn:
    refuse(f"{name} is not installed")


def refuse(why: str) -> NoReturn:
    """Skips the test because of `why`, or fails it if CI is set."""
    if os.environ.get("CI"):
        pytest.fail(f"{why}, and CI runs every test", pytrace=False)
    pytest.skip(why)
