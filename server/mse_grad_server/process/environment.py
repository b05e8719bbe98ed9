"""Set-up of libraries that read the environment once: gRPC's core and glibc's malloc."""

from __future__ import annotations

import ctypes
import os
import sys

__all__ = ["EXPERIMENTS_VARIABLE", "keep_freed_memory", "set_grpc_environment"]

EXPERIMENTS_VARIABLE = "GRPC_EXPERIMENTS"
_VERBOSITY_VARIABLE = "GRPC_VERBOSITY"

# Options of mallopt(3), from glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -2, -3, -8

_MIB = 2**20
# Above the largest message of the default settings. malloc would map and unmap a larger block each time.
_MMAP_THRESHOLD_BYTES = 128 * _MIB
_TOP_PAD_BYTES = 64 * _MIB
# Most memory that malloc keeps after a burst of large messages.
_TRIM_THRESHOLD_BYTES = 256 * _MIB


def set_grpc_environment(experiments: str) -> bool:
    """Sets the experiments of gRPC's core, and silences its own log unless the environment asks for it.

    Args:
        experiments: Value of the variable GRPC_EXPERIMENTS; gRPC ignores names that it does not know.

    Returns:
        Whether this process will use them: False if grpc was imported before. Child processes always do.
    """
    os.environ[EXPERIMENTS_VARIABLE] = experiments
    # gRPC would write lines in its own format to stderr, which carries one JSON object per line here.
    os.environ.setdefault(_VERBOSITY_VARIABLE, "NONE")
    return "grpc" not in sys.modules


def keep_freed_memory() -> bool:
    """Makes malloc reuse freed memory instead of returning it to the kernel; returns whether it did.

    Otherwise a message of megabytes costs a page fault for every 4 KiB: a third of the server's processor time with
    large tensors. Call it before any thread starts. Does nothing without glibc, or if variables tune malloc already.
    """
    if any(name.startswith("MALLOC_") for name in os.environ) or "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", ""):
        return False
    library = ctypes.CDLL(None)
    if not hasattr(library, "gnu_get_libc_version"):
        return False
    options = (
        (_M_MMAP_THRESHOLD, _MMAP_THRESHOLD_BYTES),
        (_M_TRIM_THRESHOLD, _TRIM_THRESHOLD_BYTES),
        (_M_TOP_PAD, _TOP_PAD_BYTES),
        (_M_ARENA_MAX, 1),
    )
    results = [library.mallopt(option, value) == 1 for option, value in options]
    return all(results)
