"""Resident memory of another process, as the kernel counts it."""

from __future__ import annotations

from pathlib import Path

__all__ = ["peak_bytes", "proportional_bytes", "reset_peak", "resident_bytes"]


def resident_bytes(pid: int) -> int:
    """Returns what the process holds in memory now."""
    return _status_bytes(pid, "VmRSS")


def proportional_bytes(pid: int) -> int:
    """Returns its part of what is resident: of a page that n processes share, an n-th."""
    return _line_bytes(Path(f"/proc/{pid}/smaps_rollup"), "Pss")


def peak_bytes(pid: int) -> int:
    """Returns the most that it held since it started or since `reset_peak`; nothing between two looks is missed."""
    return _status_bytes(pid, "VmHWM")


def reset_peak(pid: int) -> None:
    """Makes the peak start again from what is resident now."""
    Path(f"/proc/{pid}/clear_refs").write_text("5", encoding="ascii")


def _status_bytes(pid: int, name: str) -> int:
    return _line_bytes(Path(f"/proc/{pid}/status"), name)


def _line_bytes(file: Path, name: str) -> int:
    for line in file.read_text(encoding="ascii").splitlines():
        key, _, value = line.partition(":")
        if key == name:
            return int(value.split()[0]) * 1024
    raise ProcessLookupError(f"{file} has no {name}")
