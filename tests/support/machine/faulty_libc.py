"""A C library whose wall clock jumps and which starts no threads, on demand, for processes under test."""

from __future__ import annotations

import mmap
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from support.tools import require_program

__all__ = ["FaultyLibc"]

_SOURCE = Path(__file__).with_suffix(".cpp")


class FaultyLibc:
    """The C library of the processes that run with `environment`.

    Args:
        folder: An empty folder, for the library and its state.

    Attributes:
        environment: Variables of a process that shall have this library.
    """

    def __init__(self, folder: Path) -> None:
        library, state = folder / "faulty_libc.so", folder / "state"
        command = [require_program("g++"), "-O1", "-shared", "-fPIC", "-Wall", "-Werror", "-o", str(library)]
        subprocess.run([*command, str(_SOURCE), "-ldl"], check=True)
        state.write_bytes(bytes(16))
        with state.open("r+b") as file:
            self._state = mmap.mmap(file.fileno(), 16)
        self.environment = {"LD_PRELOAD": str(library), "FAULTY_LIBC": str(state)}

    def set_clock(self, wrong_s: float) -> None:
        """Sets the wall clock `wrong_s` seconds off, as somebody does who sets the time."""
        self._write(0, int(wrong_s * 1e9))

    @contextmanager
    def no_threads(self) -> Iterator[None]:
        """Lets no thread start within the `with`."""
        self._write(8, 1)
        try:
            yield
        finally:
            self._write(8, 0)

    def _write(self, at: int, value: int) -> None:
        self._state[at : at + 8] = struct.pack("q", value)
