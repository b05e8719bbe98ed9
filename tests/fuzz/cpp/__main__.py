"""Fuzzer of the C++ of the CPU kernel and of the operators' host side: `make fuzz-cpp`.

libFuzzer sends inputs to each target of this folder, under AddressSanitizer and UndefinedBehaviorSanitizer. What it
finds it prints, with a file in build/fuzz-cpp that repeats it: `build/fuzz-cpp/kernel/fuzz-kernel FILE`.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from fuzz.cpp.campaign import TARGETS, build, has_libfuzzer, run

_FOLDER = Path("build", "fuzz-cpp")


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the result of each target; returns 0 if none found anything."""
    parser = argparse.ArgumentParser(
        prog="fuzz-cpp", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=int, default=300, help="for each target")
    parser.add_argument("--runs", type=int, default=-1, help="most inputs of each target")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--targets", nargs="+", choices=TARGETS, default=TARGETS)
    parser.add_argument("--compiler", default="clang++")
    given = parser.parse_args(arguments)
    _FOLDER.mkdir(parents=True, exist_ok=True)
    if shutil.which(given.compiler) is None or not has_libfuzzer(given.compiler, _FOLDER):
        parser.exit(1, f"{given.compiler} with libFuzzer is needed (Debian: apt-get install clang libclang-rt-dev)\n")
    summary, failed = [], False
    for target in given.targets:
        folder = _FOLDER / target
        shutil.rmtree(folder, ignore_errors=True)
        program = build(target, given.compiler, folder.resolve())
        begun_s = time.monotonic()
        result = run(
            program,
            runs=given.runs,
            seconds=given.seconds,
            seed=given.seed,
            corpus=_FOLDER / "corpus" / target,
            echo=True,
        )
        seconds = time.monotonic() - begun_s
        failed = failed or result.failed
        summary.append(f"{target}: {result.runs} inputs in {seconds:.0f} s{', FAILED' if result.failed else ''}")
    print("\n".join(summary))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
