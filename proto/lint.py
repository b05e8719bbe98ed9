"""Lints the .proto sources with buf, by the rules in `buf.yaml`.

Needs npx (Node.js) on the path and the package `googleapis-common-protos`, whose google/rpc/status.proto the contract
imports. buf wants that file in a workspace of its own or from its registry: the sources of both are put together in a
temporary folder, so that no account and no other network than npm's is needed.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

from google.rpc import status_pb2

ROOM = Path(__file__).resolve().parent
BUF = "@bufbuild/buf@1.75.0"


def make_workspace(folder: Path) -> None:
    """Copies the rules, the sources of this room and what they import into `folder`."""
    google_rpc = Path(status_pb2.__file__).parent
    (folder / "google" / "rpc").mkdir(parents=True)
    shutil.copy(google_rpc / "status.proto", folder / "google" / "rpc")
    shutil.copy(ROOM / "buf.yaml", folder)
    for source in (ROOM / "mse_grad").rglob("*.proto"):
        copy = folder / source.relative_to(ROOM)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, copy)


def main() -> int:
    """Returns buf's status, 0 where it finds nothing; its findings are on standard output."""
    with tempfile.TemporaryDirectory() as name:
        make_workspace(Path(name))
        return subprocess.run(["npx", "--yes", BUF, "lint", "--path", "mse_grad"], cwd=name, check=False).returncode


if __name__ == "__main__":
    raise SystemExit(main())
