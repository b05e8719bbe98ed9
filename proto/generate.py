"""Generator of the modules beside `mse_grad/v1/mse_grad.proto`; also checks that they are fresh.

It needs no package of this repository, only an environment with `grpcio-tools==1.76.0`. Code from newer tools fails at
import with protobuf 6, which this project supports.
"""

from __future__ import annotations

import argparse
import filecmp
import sys
import tempfile
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path

from google.rpc import status_pb2
from grpc_tools import protoc

ROOM = Path(__file__).resolve().parent
SOURCES = ("mse_grad/v1/mse_grad.proto", "mse_grad/open_inference/inference.proto")
OUTPUTS = (
    "mse_grad/v1/mse_grad_pb2.py",
    "mse_grad/v1/mse_grad_pb2.pyi",
    "mse_grad/v1/mse_grad_pb2_grpc.py",
    "mse_grad/open_inference/inference_pb2.py",
    "mse_grad/open_inference/inference_pb2.pyi",
    "mse_grad/open_inference/inference_pb2_grpc.py",
)
TOOLS_VERSION = "1.76.0"


def generate(into: Path) -> None:
    """Generates every output below `into`; raises SystemExit with protoc's status if protoc fails."""
    google_apis = Path(status_pb2.__file__).parents[2]
    well_known = files("grpc_tools") / "_proto"
    status = protoc.main(
        [
            "protoc",
            f"-I{ROOM}",
            f"-I{google_apis}",
            f"-I{well_known}",
            f"--python_out={into}",
            f"--pyi_out={into}",
            f"--grpc_python_out={into}",
            *SOURCES,
        ]
    )
    if status:
        raise SystemExit(f"protoc ended with status {status}")


def stale_outputs() -> list[str]:
    """Returns the names of the committed outputs that differ from those of the current sources."""
    with tempfile.TemporaryDirectory() as folder:
        fresh = Path(folder)
        generate(fresh)
        return [name for name in OUTPUTS if not _same(fresh / name, ROOM / name)]


def _same(one: Path, other: Path) -> bool:
    return other.exists() and filecmp.cmp(one, other, shallow=False)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 if an output is stale")
    arguments = parser.parse_args()
    if version("grpcio-tools") != TOOLS_VERSION:
        raise SystemExit(f"grpcio-tools is {version('grpcio-tools')}, it must be {TOOLS_VERSION}")
    if not arguments.check:
        generate(ROOM)
        return 0
    stale = stale_outputs()
    for name in stale:
        print(f"proto/{name} is stale: run `make generate`", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    raise SystemExit(main())
