"""The CPU kernel compiled for aarch64, on any machine, under qemu-aarch64."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from support.numerics.kernel_process import KernelProcess, build_runner, running_kernel
from support.tools import require_program

__all__ = ["qemu_kernel"]


@contextmanager
def qemu_kernel(scratch: Path) -> Iterator[KernelProcess]:
    """Runs the kernel within the `with`; if a program is missing, skips the test, or fails it in CI.

    Args:
        scratch: Folder for the program.
    """
    emulator = require_program("qemu-aarch64")
    # Static: the emulator then needs no libraries of the other architecture.
    runner = build_runner("aarch64-linux-gnu-g++", scratch / "runner-aarch64", flags=["-static"])
    with running_kernel(emulator, str(runner)) as kernel:
        yield kernel
