"""Installs the wheel that fits this machine into an empty environment, and uses it.

python tests/tools/use_wheel.py dist    # `make wheels` does it at its end

It needs only the standard library of the Python that the environment is made from, so it runs where nothing of this
project is installed. On Linux it starts the server, computes on it and runs `mse-grad verify --quick`; elsewhere it
runs the example of the SDK's fake server.
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 300


def main(folder: Path) -> int:
    """Installs and uses a wheel of `folder`; raises an error if anything fails."""
    with tempfile.TemporaryDirectory() as scratch:
        venv.create(scratch, with_pip=True)
        programs = Path(scratch, "Scripts" if os.name == "nt" else "bin")
        python = str(programs / "python")
        on_linux = sys.platform == "linux"
        name = "mse-grad[server,cli]" if on_linux else "mse-grad"
        # First the wheel alone and from nowhere else, then the packages that it needs.
        run(
            python,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--no-index",
            "--no-deps",
            "--find-links",
            str(folder),
            "mse-grad",
        )
        run(python, "-m", "pip", "install", "--quiet", name)
        print(run(python, "-m", "pip", "show", "mse-grad").splitlines()[1])
        if on_linux:
            serve_and_verify(programs)
        else:
            print(run(python, str(ROOT / "client" / "examples" / "fake_server.py")))
    return 0


def serve_and_verify(programs: Path) -> None:
    """Starts the installed server and verifies it with the installed command."""
    server = subprocess.Popen(
        [str(programs / "mse-grad-server"), "--listen", "127.0.0.1:0", "--metrics-listen", "none"],
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert server.stderr is not None
        ready = next(line for line in server.stderr if '"event": "ready"' in line)
        found = {key: re.findall(rf'"{key}": "([^"]*)"', ready)[0] for key in ("listen", "device")}
        print(f"{platform.machine()}, kernel {found['device']}")
        if found["device"] == "numpy":
            raise SystemExit("the wheel has no compiled kernel for this machine")
        print(run(str(programs / "mse-grad"), "verify", "--quick", found["listen"]).strip().splitlines()[-1])
    finally:
        server.terminate()
        server.wait(PATIENCE_S)


def run(*command: str) -> str:
    """Runs a command outside of the checkout; returns its output."""
    with tempfile.TemporaryDirectory() as folder:
        ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    if ended.returncode != 0:
        raise SystemExit(f"{' '.join(command)} ended with {ended.returncode}\n{ended.stdout}{ended.stderr}")
    return ended.stdout


if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[1]).resolve()))
