"""Import of the SDK against the import of its dependencies alone, in processor time.

`PYTHONPATH=tests .venv/bin/python -m benchmarks.imports`. Each round runs one process of each kind; the time of an
interpreter that imports nothing is subtracted from both.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from statistics import median
from tempfile import TemporaryDirectory

__all__ = ["DEPENDENCIES", "seconds_of_imports"]

# What `pip install mse-grad` installs, as far as the SDK uses it.
DEPENDENCIES = (
    "import google.protobuf.message, google.rpc.error_details_pb2, google.rpc.status_pb2\n"
    "import grpc, ml_dtypes, numpy, typing_extensions\n"
)
_PROGRAMS = {"nothing": "", "dependencies": DEPENDENCIES, "SDK": "import mse_grad_client\n"}


def seconds_of_imports(rounds: int) -> dict[str, float]:
    """Returns the median processor time of a process that imports nothing, the dependencies, or the SDK."""
    times_s: dict[str, list[float]] = {name: [] for name in _PROGRAMS}
    with TemporaryDirectory() as folder:
        # Compiled modules are read, as after an installation, whatever the shell says.
        environment = {**os.environ, "PYTHONPYCACHEPREFIX": folder}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        for program in _PROGRAMS.values():
            _processor_s(program, environment)  # compiles
        for number in range(rounds):
            names = list(_PROGRAMS)
            first = number % len(names)
            for name in names[first:] + names[:first]:
                times_s[name].append(_processor_s(_PROGRAMS[name], environment))
    return {name: median(each) for name, each in times_s.items()}


def _processor_s(program: str, environment: dict[str, str]) -> float:
    process = subprocess.Popen([sys.executable, "-c", program], env=environment)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return usage.ru_utime + usage.ru_stime


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints both times and their ratio."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.imports", description=__doc__)
    parser.add_argument("--rounds", type=int, default=25, help="processes of each kind (default %(default)s)")
    found = seconds_of_imports(parser.parse_args(arguments).rounds)
    dependencies_s, sdk_s = (found[name] - found["nothing"] for name in ("dependencies", "SDK"))
    print(f"dependencies {1000 * dependencies_s:.0f} ms, SDK with them {1000 * sdk_s:.0f} ms,", end=" ")
    print(f"{sdk_s / dependencies_s:.2f} times as long")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
