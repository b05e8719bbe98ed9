"""Checks and mappings of memory that another process made (memfd). Linux only.

If a mapped file shrinks, the process that reads it dies of SIGBUS; huge pages that run out may do the same. So only a
memfd on tmpfs that is sealed against shrinking and growing is mapped.
"""

from __future__ import annotations

import fcntl
import mmap
import os
from typing import NamedTuple

from mse_grad_server.errors import SharedMemoryFull, SharedMemoryUnusable

__all__ = ["Memfd", "inspect_memfd", "map_memfd"]

# Commands and seals of linux/fcntl.h, as numbers: a Python that was built on an older system has no names for them.
_F_GET_SEALS = 1034
_F_SEAL_SHRINK = 0x0002
_F_SEAL_GROW = 0x0004
_F_SEAL_WRITE = 0x0008
_F_SEAL_FUTURE_WRITE = 0x0010


class Memfd(NamedTuple):
    """Properties of a descriptor that may be mapped.

    Attributes:
        size_bytes: Its size, which cannot change.
        inode: Device and inode number of the file; equal for two descriptors of the same memory.
        is_writable: Whether it may be mapped for writing.
    """

    size_bytes: int
    inode: tuple[int, int]
    is_writable: bool


def inspect_memfd(descriptor: int) -> Memfd:
    """Returns the properties of the memory behind `descriptor`.

    Raises:
        SharedMemoryUnusable: It is not a memfd on tmpfs, it uses huge pages, its size may change, or it is empty.
    """
    # This check comes first because it asks no file system: FUSE or a network may take any time to answer the others.
    try:
        seals = fcntl.fcntl(descriptor, _F_GET_SEALS)
    except OSError as cause:  # EINVAL: a file that takes no seals
        raise SharedMemoryUnusable("a descriptor is not memory; it must come from memfd_create(2)") from cause
    needed = _F_SEAL_SHRINK | _F_SEAL_GROW
    if seals & needed != needed:
        raise SharedMemoryUnusable(
            "the size of the memory may change; seal it with F_SEAL_SHRINK and F_SEAL_GROW: fcntl(2)"
        )
    # The block of tmpfs is a page, the block of hugetlbfs a huge page.
    if os.fstatvfs(descriptor).f_bsize != mmap.PAGESIZE:
        raise SharedMemoryUnusable("the memory has huge pages, which may run out; make it without MFD_HUGETLB")
    status = os.fstat(descriptor)
    if not status.st_size:
        raise SharedMemoryUnusable("the memory is empty; give it its size with ftruncate(2) before it is sealed")
    opened_for_writing = fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDWR
    is_writable = opened_for_writing and not seals & (_F_SEAL_WRITE | _F_SEAL_FUTURE_WRITE)
    return Memfd(status.st_size, (status.st_dev, status.st_ino), is_writable)


def map_memfd(descriptor: int, memfd: Memfd) -> mmap.mmap:
    """Maps the memory, for writing only if that is allowed; raises SharedMemoryFull if the system cannot map it."""
    access = mmap.PROT_READ | mmap.PROT_WRITE if memfd.is_writable else mmap.PROT_READ
    try:
        return mmap.mmap(descriptor, memfd.size_bytes, mmap.MAP_SHARED, access)
    except (OSError, ValueError) as cause:
        raise SharedMemoryFull(f"the server cannot map {memfd.size_bytes} bytes") from cause
