"""Network namespaces for clients on the server's host, as other pods of one node have them."""

from __future__ import annotations

import os
import subprocess

import pytest

from support.tools import require_program

__all__ = ["require_network_namespaces"]


def require_network_namespaces() -> str:
    """Returns the program `unshare`; skips the test if this user may make no network namespace, and fails it in CI."""
    unshare = require_program("unshare")
    if subprocess.run([unshare, "--net", "true"], capture_output=True, check=False).returncode:
        if os.environ.get("CI"):
            pytest.fail("this user may make no network namespace, and CI runs every test", pytrace=False)
        pytest.skip("this user may make no network namespace")
    return unshare
