"""Shows glibc's malloc that large blocks come and go here."""

from __future__ import annotations

import numpy as np

__all__ = ["free_a_large_block"]

# glibc learns from the largest block freed so far, up to 32 MiB: what is smaller is kept for the next one, and no more
# than twice as much is. mallopt(3), M_MMAP_THRESHOLD.
_BLOCK_BYTES = 24 * 2**20


def free_a_large_block() -> None:
    """Spares messages a page fault for every 4 KiB, which doubles the time of a gradient of 64K elements.

    What a process that works with arrays has done long before; it takes and changes nothing beyond. The block is never
    touched, so that it costs no memory.
    """
    np.empty(_BLOCK_BYTES, np.uint8)
