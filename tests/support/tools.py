"""Programs that some tests need and a developer's machine may lack."""

from __future__ import annotations

import importlib.util
import os
import shutil
from typing import NoReturn

import pytest

__all__ = ["require_module", "require_program"]


def require_program(name: str) -> str:
    """Returns the path of the program `name`; without it the test is skipped, and fails where CI is set.

    Args:
        name: As on the command line, e.g. "qemu-aarch64".
    """
    path = shutil.which(name)
    if path is None:
        _miss(name)
    return path


def require_module(name: str) -> None:
    """Skips the test where the Python module `name` is not installed, and fails it where CI is set."""
    if importlib.util.find_spec(name) is None:
        _miss(name)


def _miss(name: str) -> NoReturn:
    if os.environ.get("CI"):
        pytest.fail(f"{name} is not installed, and CI runs every test", pytrace=False)
    pytest.skip(f"{name} is not installed")
