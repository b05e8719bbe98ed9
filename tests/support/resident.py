"""Memory of another process, its threads, descriptors and mappings, as the kernel counts them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

__all__ = [
    "LEAKED_BYTES",
    "Held",
    "held",
    "peak_bytes",
    "proportional_bytes",
    "reset_peak",
    "resident_bytes",
    "unshared_bytes",
]

LEAKED_BYTES = 256
"""What gRPC may leak for an RPC that its caller gives up (docs/limits.md)."""


@dataclass(frozen=True)
class Held:
    """The resources of a process: resident memory in bytes, and the numbers of the others."""

    memory_bytes: int
    threads: int
    descriptors: int
    mappings: int

    def __sub__(self, other: Held) -> Held:
        return Held(
            self.memory_bytes - other.memory_bytes,
            self.threads - other.threads,
            self.descriptors - other.descriptors,
            self.mappings - other.mappings,
        )


def held(pid: int) -> Held:
    """Returns the current resources of the process."""
    folder = Path(f"/proc/{pid}")
    return Held(
        resident_bytes(pid),
        len(os.listdir(folder / "task")),
        len(os.listdir(folder / "fd")),
        len((folder / "maps").read_text(encoding="utf-8").splitlines()),
    )


def resident_bytes(pid: int) -> int:
    """Returns the current resident memory of the process."""
    return _status_bytes(pid, "VmRSS")


def proportional_bytes(pid: int) -> int:
    """Returns the process's proportional share of resident memory: an n-th of a page that n processes share."""
    return _line_bytes(Path(f"/proc/{pid}/smaps_rollup"), "Pss")


def peak_bytes(pid: int) -> int:
    """Returns the peak since the start or since `reset_peak`; it includes peaks between two calls."""
    return _status_bytes(pid, "VmHWM")


def reset_peak(pid: int) -> None:
    """Makes the peak start again from the current resident memory."""
    Path(f"/proc/{pid}/clear_refs").write_text("5", encoding="ascii")


def unshared_bytes(pid: int) -> int:
    """Returns the resident memory that is no file: heap, stacks and shared memory without a file."""
    return _status_bytes(pid, "RssAnon") + _status_bytes(pid, "RssShmem")


def _status_bytes(pid: int, name: str) -> int:
    return _line_bytes(Path(f"/proc/{pid}/status"), name)


def _line_bytes(file: Path, name: str) -> int:
    for line in file.read_text(encoding="ascii").splitlines():
        key, _, value = line.partition(":")
        if key == name:
            return int(value.split()[0]) * 1024
    raise ProcessLookupError(f"{file} has no {name}")
