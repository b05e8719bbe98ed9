"""Check of the Python that runs the toolkit's compiler: the host's python3, not the server's."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Mapping

from mse_grad_server.doctor.finding import Finding, ok, warning

__all__ = ["examine_compiler"]

# Distribution -> module. Source: the toolkit's asc_opc. Versions before 9 need those of the second table too.
_PACKAGES = {"numpy": "numpy", "decorator": "decorator", "attrs": "attr", "psutil": "psutil"}
_OLDER_PACKAGES = {"scipy": "scipy", "sympy": "sympy", "cffi": "cffi", "pyyaml": "yaml", "protobuf": "google.protobuf"}
_PROGRAM = """
import importlib, json, sys
missing = []
for name in sys.argv[1:]:
    try:
        importlib.import_module(name)
    except ImportError:
        missing.append(name)
print(json.dumps(missing))
"""
_TIMEOUT_S = 60.0
_SUBJECT = "compiler's Python"


def examine_compiler(environment: Mapping[str, str]) -> Finding:
    """Returns the finding about the python3 on PATH: whether it can build the operator package."""
    python = shutil.which("python3", path=environment.get("PATH"))
    if python is None:
        return warning(
            _SUBJECT, "there is no python3 in PATH", "install it: the compiler of the toolkit is written in it"
        )
    modules = {**_PACKAGES, **_OLDER_PACKAGES}
    command = [python, "-c", _PROGRAM, *modules.values()]
    ended = subprocess.run(
        command, env=dict(environment), capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
    )
    if ended.returncode != 0:
        return warning(_SUBJECT, f"{python} fails: {ended.stderr.strip().splitlines()[-1:]}", "see PYTHONPATH")
    absent = set(json.loads(ended.stdout))
    missing = [name for name, module in _PACKAGES.items() if module in absent]
    older = [name for name, module in _OLDER_PACKAGES.items() if module in absent]
    if missing:
        text = f"{python} lacks {', '.join(missing)}, which a build of the operator package needs"
        return warning(_SUBJECT, text, f"{python} -m pip install {' '.join(missing)}")
    note = f"; toolkits before 9 also need {', '.join(older)}" if older else ""
    return ok(_SUBJECT, f"{python} has what a build of the operator package needs{note}")
