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

__all__ = ["require_module", "require_program"]


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


def require_libraries(program: Path, environment: Mapping[str, str]) -> None:
    """Skips the test if a shared library of `program` is not installed, or fails it if CI is set."""
    listed = subprocess.run(
        [require_program("ldd"), str(program)], capture_output=True, text=True, check=True, env=environment
    ).stdout
    missing = [line.split()[0] for line in listed.splitlines() if "not found" in line]
    if missing:
        _miss(", ".join(missing))


def _miss(name: str) -> NoReturn:
    if os.environ.get("CI"):
        pytest.fail(f"{name} is not installed, and CI runs every test", pytrace=False)
    pytest.skip(f"{name} is not installed")
