"""Build of the CPU kernel: the one list of its sources and flags, for the install, the tests and other machines.

    python kernel/cpu/build_kernel.py --compiler aarch64-linux-gnu-g++ --output libmse_loss_grad_cpu.so

It needs only the standard library, because it runs before anything is installed. The result depends only on the
compiler and the sources: CXXFLAGS is ignored, so that it cannot bring in -ffast-math.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

__all__ = ["CompileError", "CompilerNotFoundError", "build", "find_compiler", "source_hash"]

SOURCE_DIR = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Source:
    """A translation unit, and the flags for the instructions that only it may use."""

    name: str
    flags: tuple[str, ...] = ()


HEADERS = ("fused_loop.h", "mse_loss_grad_cpu.h", "variant.h")
COMMON_SOURCES = (Source("mse_loss_grad_cpu.cpp"), Source("variant_portable.cpp"))
VARIANT_SOURCES = {
    "x86_64": (Source("variant_avx2.cpp", ("-mavx2", "-mf16c")), Source("variant_avx512.cpp", ("-mavx512f",))),
    "aarch64": (Source("variant_neon.cpp"),),
}

COMPILE_FLAGS = ("-std=c++17", "-O3", "-ffp-contract=off", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra")
# Without exceptions and RTTI the kernel links nothing of the C++ library, so it loads beside any version or none.
KERNEL_FLAGS = ("-fno-exceptions", "-fno-rtti")
LINK_FLAGS = ("-static-libgcc", "-Wl,--as-needed")


class CompilerNotFoundError(Exception):
    """There is no C++ compiler; the message lists the names that were tried."""


class CompileError(Exception):
    """The compiler failed; the message has its command and its output."""


def find_compiler() -> list[str]:
    """Returns the command of the C++ compiler: $CXX if it is set, else c++, g++ or clang++.

    Raises:
        CompilerNotFoundError: $CXX, or each of these, is not on PATH.
    """
    chosen = shlex.split(os.environ.get("CXX", ""))
    if chosen:
        if shutil.which(chosen[0]) is None:
            raise CompilerNotFoundError(f"CXX is {shlex.join(chosen)!r}, and there is no program {chosen[0]!r} on PATH")
        return chosen
    for name in ("c++", "g++", "clang++"):
        if shutil.which(name) is not None:
            return [name]
    raise CompilerNotFoundError("CXX is not set, and none of c++, g++ and clang++ is on PATH")


def source_hash() -> str:
    """Returns the hexadecimal SHA-256 of the kernel's sources and of this file, which holds the flags."""
    sources = [*COMMON_SOURCES, *(source for group in VARIANT_SOURCES.values() for source in group)]
    digest = hashlib.sha256()
    for name in sorted({*HEADERS, Path(__file__).name, *(source.name for source in sources)}):
        content = (SOURCE_DIR / name).read_bytes()
        digest.update(f"{name} {len(content)}\n".encode() + content)
    return digest.hexdigest()


def build(
    compiler: Sequence[str],
    output: Path,
    *,
    program: Path | None = None,
    flags: Sequence[str] = (),
    warnings_are_errors: bool = False,
) -> None:
    """Compiles the kernel to `output`. A process that has loaded the old file keeps it.

    Args:
        compiler: Command of the compiler; its target decides which variants are compiled.
        output: The file to write.
        program: Source with a main function. If given, `output` is that program with the kernel in it, else a library.
        flags: Further flags for compiling and linking, e.g. "-fsanitize=address".
        warnings_are_errors: Whether a warning fails the build.

    Raises:
        CompileError: The compiler failed.
    """
    architecture = _run([*compiler, "-dumpmachine"]).partition("-")[0]
    kernel = [*COMMON_SOURCES, *VARIANT_SOURCES.get(architecture, ())]
    sources = [Source(source.name, (*KERNEL_FLAGS, *source.flags)) for source in kernel]
    if program is not None:
        sources.append(Source(str(program.resolve()), (f"-I{SOURCE_DIR}",)))
    common = [*COMPILE_FLAGS, f'-DMSE_LOSS_GRAD_CPU_HASH="{source_hash()}"', *flags]
    if warnings_are_errors:
        common.append("-Werror")
    output = output.resolve()
    # Beside the output, because a file can be replaced atomically only within its file system.
    with tempfile.TemporaryDirectory(prefix=".kernel-", dir=output.parent) as scratch:
        objects = [str(Path(scratch, f"{index}.o")) for index in range(len(sources))]
        commands = [
            [*compiler, *common, *source.flags, "-c", source.name, "-o", target]
            for source, target in zip(sources, objects, strict=True)
        ]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(_run, commands))
        unfinished = Path(scratch, output.name)
        kind = ["-shared"] if program is None else []
        _run([*compiler, *kind, *flags, *objects, *LINK_FLAGS, "-o", str(unfinished)])
        unfinished.replace(output)


def _run(command: Sequence[str]) -> str:
    result = subprocess.run(command, cwd=SOURCE_DIR, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        words = (result.stderr + result.stdout).strip() or f"exit code {result.returncode}"
        raise CompileError(f"{shlex.join(command)}\n{words}")
    return result.stdout.strip()


def _main() -> None:
    parser = argparse.ArgumentParser(description="Compiles the CPU kernel to a shared library.")
    parser.add_argument("--output", type=Path, required=True, help="file to write")
    parser.add_argument("--compiler", type=shlex.split, help="default: $CXX, c++, g++ or clang++")
    parser.add_argument("--program", type=Path, help="source of a program to write in place of the library")
    parser.add_argument("--flag", action="append", default=[], help="further flag, as --flag=-static; repeatable")
    parser.add_argument("--warnings-are-errors", action="store_true")
    arguments = parser.parse_args()
    try:
        build(
            arguments.compiler or find_compiler(),
            arguments.output,
            program=arguments.program,
            flags=arguments.flag,
            warnings_are_errors=arguments.warnings_are_errors,
        )
    except (CompilerNotFoundError, CompileError) as error:
        parser.exit(1, f"{error}\n")


if __name__ == "__main__":
    _main()
