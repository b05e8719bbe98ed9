"""Fuzzer of every message, service and transport of a server: `make fuzz`.

Each session of the run sends a few messages that are almost valid: on a stream over gRPC, over a direct connection,
over packets of a unix socket, with and without shared memory; to ComputeGradient, the Open Inference Protocol, health,
reflection and channelz; as greetings, handovers of memory, and frames of HTTP/2. Every answer must be the right
gradient or a typed error. Afterwards the server must still answer right, hold no more than before, and have logged no
failure of its own.

A failed session is repeated with `make fuzz ARGS="--seed SEED --session NUMBER"`; its last messages are in build/fuzz.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from fuzz.campaign import SURFACES, fuzz

_FOLDER = Path("build", "fuzz")


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the result; returns 0 if the server kept every promise."""
    parser = argparse.ArgumentParser(
        prog="fuzz", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--session", type=int, help="repeat one session")
    parser.add_argument("--surfaces", nargs="+", choices=SURFACES, default=SURFACES)
    given = parser.parse_args(arguments)
    report = fuzz(
        given.cases,
        seed=given.seed,
        session=given.session,
        surfaces=tuple(given.surfaces),
        folder=_FOLDER,
        say=lambda line: print(line, flush=True),
    )
    for line in report.failures[:50]:
        print(line)
    print(report)
    return 1 if report.failures else 0


if __name__ == "__main__":
    sys.exit(main())
