"""Builds of the fuzz targets with libFuzzer, AddressSanitizer and UndefinedBehaviorSanitizer, and their runs."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["MOST_MIB", "TARGETS", "Edit", "Result", "build", "has_libfuzzer", "run"]

_HERE = Path(__file__).resolve().parent
_ROOT = _HERE.parents[2]
_SIMULATOR = _ROOT / "tests" / "simulator" / "include"

_SANITIZE = ("-fsanitize=fuzzer,address,undefined", "-fno-sanitize-recover=all", "-g1")
_WARNINGS = ("-Wall", "-Wextra", "-Werror")
_HOST_SOURCES = {"plan": ("plan",), "tiling": ("plan", "check", "dtype", "infershape", "tiling")}

TARGETS = ("kernel", "plan", "tiling")
"""Names of the targets: each is a file of this folder."""

MOST_MIB = 2048
"""Most memory that one allocation of a target may take."""

_MOST_BYTES = 4096  # of an input


@dataclass(frozen=True)
class Edit:
    """A mistake to plant in a source before it is built.

    Attributes:
        file: Name of a file of kernel/cpu or op_host.
        old: Text that is there once.
        new: What takes its place.
    """

    file: str
    old: str
    new: str


# Tensors of 8 MiB, from which on the kernel streams its stores, would take nearly all of the time.
_STREAM_FROM_1_KIB = Edit("fused_loop.h", "int64_t{8} << 20", "int64_t{1} << 10")


@dataclass(frozen=True)
class Result:
    """One run of a target.

    Attributes:
        runs: Inputs that it took.
        output: What it printed.
        failed: Whether it found something.
    """

    runs: int
    output: str
    failed: bool


def has_libfuzzer(compiler: str, folder: Path) -> bool:
    """Returns whether `compiler` links libFuzzer, which Apple's clang and some packages of clang lack.

    Args:
        compiler: A clang++ as on the command line.
        folder: A folder for what it writes.
    """
    source = folder / "probe.cpp"
    source.write_text(
        '#include <fuzzer/FuzzedDataProvider.h>\nextern "C" int LLVMFuzzerTestOneInput(const uint8_t*, size_t) '
        "{ return 0; }\n"
    )
    command = [compiler, *_SANITIZE, str(source), "-o", str(folder / "probe")]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def build(target: str, compiler: str, folder: Path, *, edits: Sequence[Edit] = ()) -> Path:
    """Builds a target from copies of its sources; returns the program. Raises CalledProcessError.

    Args:
        target: One of `TARGETS`.
        compiler: A clang++ as on the command line.
        folder: An empty folder, which is made, for copies and program.
        edits: Mistakes to plant in the copies.
    """
    here = folder / "tests" / "fuzz" / "cpp"
    shutil.copytree(_HERE, here, ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    for name in ("kernel", "op_host"):
        shutil.copytree(_ROOT / name, folder / name, ignore=shutil.ignore_patterns("*.so", "build_out", "__pycache__"))
    room = folder / ("kernel/cpu" if target == "kernel" else "op_host")
    for edit in edits:
        _apply(edit, room)
    program, source = folder / f"fuzz-{target}", here / f"{target}.cpp"
    if target == "kernel":
        _apply(_STREAM_FROM_1_KIB, room)
        script = [sys.executable, str(room / "build_kernel.py"), "--compiler", compiler, "--warnings-are-errors"]
        flags = [f"--flag={flag}" for flag in _SANITIZE]
        subprocess.run([*script, "--program", str(source), "--output", str(program), *flags], check=True)
        return program
    sources = [room / f"mse_loss_grad_{part}.cpp" for part in _HOST_SOURCES[target]]
    command = [compiler, "-std=c++17", "-O1", *_WARNINGS, *_SANITIZE, f"-I{_SIMULATOR}"]
    subprocess.run([*command, str(source), *map(str, sources), "-o", str(program)], check=True)
    return program


def run(
    program: Path, *, runs: int = -1, seconds: int = 0, seed: int = 1, corpus: Path | None = None, echo: bool = False
) -> Result:
    """Runs a target until it finds something, or has taken `runs` inputs, or for `seconds`.

    Args:
        program: From `build`; an input that fails is written beside it.
        runs: Bound on the inputs; -1 for none.
        seconds: Bound on the time; 0 for none.
        seed: Of libFuzzer's choices.
        corpus: Folder of inputs to begin with, which also gets those that reach new code.
        echo: Whether its output is printed while it runs.
    """
    command = [str(program), f"-runs={runs}", f"-max_total_time={seconds}", f"-seed={seed}", f"-max_len={_MOST_BYTES}"]
    # Inputs of every length from the beginning.
    command += ["-len_control=0", f"-artifact_prefix={program.parent}/", "-print_final_stats=1"]
    # Linux counts what this process held before exec as the resident memory of the target.
    command += ["-rss_limit_mb=0", f"-malloc_limit_mb={MOST_MIB}"]
    if corpus is not None:
        corpus.mkdir(parents=True, exist_ok=True)
        command.append(str(corpus))
    lines = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace") as it:
        assert it.stdout is not None
        for line in it.stdout:
            if "# Uses: " in line:  # pieces of inputs, hundreds of lines at its end
                continue
            lines.append(line)
            if echo:
                print(line, end="", flush=True)
    output = "".join(lines)
    taken = re.search(r"stat::number_of_executed_units:\s*(\d+)", output)
    return Result(int(taken[1]) if taken else 0, output, it.returncode != 0)


def _apply(edit: Edit, room: Path) -> None:
    path = room / edit.file
    text = path.read_text(encoding="utf-8")
    if text.count(edit.old) != 1:
        raise ValueError(f"{path.name} has {edit.old!r} {text.count(edit.old)} times, not once")
    path.write_text(text.replace(edit.old, edit.new), encoding="utf-8")
