"""Programs that some tests need and a developer's machine may lack."""

from __future__ import annotations

import os
import shutil

import pytest

__all__ = ["require_program"]


def require_program(name: str) -> str:
    """Returns the path of the program `name`; without it the test is skipped, and fails where CI is set.

    Args:
        name: As on the command line, e.g. "qemu-aarch64".
    """
    path = shutil.which(name)
    if path is not None:
        return path
    if os.environ.get("CI"):
        pytest.fail(f"{name} is not installed, and CI runs every test", pytrace=False)
    pytest.skip(f"{name} is not installed")
