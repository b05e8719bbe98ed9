"""Tells glibc to keep freed memory for the next message."""

from __future__ import annotations

import ctypes
import os

__all__ = ["keep_freed_memory"]

# malloc.h of glibc, with which mallopt(3) is called.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -2, -3, -8

_MIB = 2**20
# Above the largest message of the default settings, which would otherwise be mapped and unmapped each time.
_MMAP_THRESHOLD_BYTES = 128 * _MIB
_TOP_PAD_BYTES = 64 * _MIB
# What stays at most of what a burst of large messages took.
_TRIM_THRESHOLD_BYTES = 256 * _MIB


def keep_freed_memory() -> bool:
    """Makes malloc reuse memory rather than give it back to the kernel; returns whether it did.

    A message of megabytes otherwise costs a page fault for every 4 KiB: a third of the server's processor time for
    large tensors. To be called before there are threads. Does nothing without glibc, and where the environment tunes
    malloc already.
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
    taken = [library.mallopt(option, value) == 1 for option, value in options]
    return all(taken)
