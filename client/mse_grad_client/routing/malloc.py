"""Threshold above which glibc maps each block of memory anew."""

from __future__ import annotations

import numpy as np

__all__ = ["raise_malloc_threshold"]

# Size of a block that is allocated and freed once. From then on glibc keeps smaller freed blocks for reuse, up to twice
# this size in total.
_MALLOC_BLOCK_BYTES = 24 * 2**20


def raise_malloc_threshold() -> None:
    """Lets glibc reuse freed memory for messages, which saves a page fault for every 4 KiB.

    glibc maps each block above a threshold anew. It raises the threshold to the largest such block freed so far, up to
    32 MiB: mallopt(3), M_MMAP_THRESHOLD. In a process that works with large arrays the threshold has usually risen
    already; otherwise a gradient of 64K elements takes twice the time. The block is never touched, so it costs no
    memory.
    """
    np.empty(_MALLOC_BLOCK_BYTES, np.uint8)
