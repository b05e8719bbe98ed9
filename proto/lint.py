"""Lint of the .proto sources with buf, by the rules in `buf.yaml`, and a check that they break no older client.

    python proto/lint.py             # lint
    python proto/lint.py breaking    # compare with the last release, or else with the version before the last change

Needs npx (Node.js) on the path and the package `googleapis-common-protos`, whose google/rpc/status.proto the contract
imports; `breaking` needs git and a clone with its history. buf wants that file in its workspace or from its registry.
This program copies all sources to a temporary folder, so it needs no account and no network except npm's.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from google.rpc import status_pb2

ROOM = Path(__file__).resolve().parent
BUF = "@bufbuild/buf@1.75.0"


def make_workspace(folder: Path, *, commit: str = "") -> None:
    """Copies the rules, the sources of this package and their imports into `folder`.

    Args:
        folder: An existing folder.
        commit: Commit whose sources are copied; "" for those in the work tree.
    """
    google_rpc = Path(status_pb2.__file__).parent
    (folder / "google" / "rpc").mkdir(parents=True)
    shutil.copy(google_rpc / "status.proto", folder / "google" / "rpc")
    shutil.copy(ROOM / "buf.yaml", folder)
    if commit:
        listed = _git("ls-tree", "-r", "--name-only", commit, "mse_grad").splitlines()
        sources = {name: _git("show", f"{commit}:./{name}") for name in listed if name.endswith(".proto")}
    else:
        found = (ROOM / "mse_grad").rglob("*.proto")
        sources = {str(source.relative_to(ROOM)): source.read_text(encoding="utf-8") for source in found}
    for name, text in sources.items():
        copy = folder / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(text, encoding="utf-8")


def baseline() -> str:
    """Returns the last release, or the commit before the last change of the sources, or "" if there is neither."""
    release = subprocess.run(
        ["git", "describe", "--tags", "--abbrev=0", "--match", "v*"],
        cwd=ROOM,
        capture_output=True,
        text=True,
        check=False,
    )
    if release.returncode == 0:
        return release.stdout.strip()
    changes = _git("log", "-n", "2", "--format=%H", "--", "mse_grad/v1/mse_grad.proto").split()
    return changes[1] if len(changes) > 1 else ""


def lint() -> int:
    """Returns buf's status, 0 if it finds nothing; its findings are on standard output."""
    with tempfile.TemporaryDirectory() as name:
        make_workspace(Path(name))
        return _buf(name, "lint", "--path", "mse_grad")


def breaking() -> int:
    """Returns buf's status, 0 if clients of the baseline still understand the sources."""
    commit = baseline()
    if not commit:
        print("the history has no older version of the sources to compare with", file=sys.stderr)  # noqa: T201
        return 0
    with tempfile.TemporaryDirectory() as old, tempfile.TemporaryDirectory() as new:
        make_workspace(Path(old), commit=commit)
        make_workspace(Path(new))
        return _buf(new, "breaking", "--against", old)


def main() -> int:
    """Runs the check that the first argument names."""
    return breaking() if sys.argv[1:] == ["breaking"] else lint()


def _buf(folder: str, *arguments: str) -> int:
    return subprocess.run(["npx", "--yes", BUF, *arguments], cwd=folder, check=False).returncode


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOM, capture_output=True, text=True, check=True).stdout


if __name__ == "__main__":
    raise SystemExit(main())
