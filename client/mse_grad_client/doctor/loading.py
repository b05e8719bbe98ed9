"""Loads libraries in another process: what they do when loaded, or how they crash, stays there."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Loaded", "load"]

_TIMEOUT_S = 120.0
_PROGRAM = """
import ctypes, json, sys
for path, symbols in json.loads(sys.argv[1]):
    try:
        library = ctypes.CDLL(path, mode=ctypes.RTLD_GLOBAL)
    except OSError as error:
        print(json.dumps([str(error), []]), flush=True)
    else:
        print(json.dumps(["", [symbol for symbol in symbols if not hasattr(library, symbol)]]), flush=True)
"""


@dataclass(frozen=True)
class Loaded:
    """What came of loading one library.

    Attributes:
        failure: Why it does not load; "" where it does.
        missing: Symbols that it lacks.
    """

    failure: str
    missing: tuple[str, ...] = ()


def load(libraries: Sequence[tuple[Path, Sequence[str]]], *, environment: Mapping[str, str]) -> list[Loaded]:
    """Loads libraries one after another into one process, each with the symbols that it must have."""
    wanted = json.dumps([[str(path), list(symbols)] for path, symbols in libraries])
    command = [sys.executable, "-I", "-c", _PROGRAM, wanted]
    try:
        ended = subprocess.run(
            command, env=dict(environment), capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        return [Loaded(f"loading takes more than {_TIMEOUT_S:.0f} s")] * len(libraries)
    found = [json.loads(line) for line in ended.stdout.splitlines() if line.startswith("[")]
    results = [Loaded(failure, tuple(missing)) for failure, missing in found]
    crashed = Loaded(f"the process that loads it ends with code {ended.returncode}")
    return results + [crashed] * (len(libraries) - len(results))
