"""Memory that another process made, looked at before it is mapped. Linux alone.

A mapping of a file that shrinks kills the process that reads it (SIGBUS), and so may huge pages that run out. What is
mapped here can do neither: it is a memfd on tmpfs, sealed against shrinking and growing.
"""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import stat
from functools import cache
from typing import Any, NamedTuple

from mse_grad_server.errors import SharedMemoryFull, SharedMemoryUnusable

__all__ = ["Memfd", "inspect_memfd", "map_memfd"]

# linux/magic.h
_TMPFS_MAGIC = 0x01021994
_HUGETLBFS_MAGIC = 0x958458F6
# linux/fcntl.h, from 5.1 on: seals against writing through mappings that are made after it.
_F_SEAL_FUTURE_WRITE = 0x0010


class Memfd(NamedTuple):
    """What is known of a descriptor that may be mapped.

    Attributes:
        size_bytes: Its size, which cannot change.
        inode: Device and number of the file: the same for two descriptors of the same memory.
        is_writable: Whether it may be mapped for writing.
    """

    size_bytes: int
    inode: tuple[int, int]
    is_writable: bool


def inspect_memfd(descriptor: int) -> Memfd:
    """Returns what `descriptor` refers to.

    Raises:
        SharedMemoryUnusable: It is no memfd on tmpfs, it uses huge pages, its size may change, or it is empty.
    """
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        raise SharedMemoryUnusable("a descriptor is no memory; it must come from memfd_create(2)")
    kind = _file_system(descriptor)
    if kind == _HUGETLBFS_MAGIC:
        raise SharedMemoryUnusable("the memory has huge pages, which may run out; make it without MFD_HUGETLB")
    if kind != _TMPFS_MAGIC:
        raise SharedMemoryUnusable("a descriptor is a file on a disk; it must come from memfd_create(2)")
    try:
        seals = fcntl.fcntl(descriptor, fcntl.F_GET_SEALS)
    except OSError as cause:  # EINVAL: a file that takes no seals
        raise SharedMemoryUnusable("a descriptor takes no seals; it must come from memfd_create(2)") from cause
    needed = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW
    if seals & needed != needed:
        raise SharedMemoryUnusable(
            "the size of the memory may change; seal it with F_SEAL_SHRINK and F_SEAL_GROW: fcntl(2)"
        )
    # After the seals, since before them it might have changed in between.
    size_bytes = os.fstat(descriptor).st_size
    if not size_bytes:
        raise SharedMemoryUnusable("the memory is empty; give it its size with ftruncate(2) before it is sealed")
    opened_for_writing = fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDWR
    is_writable = opened_for_writing and not seals & (fcntl.F_SEAL_WRITE | _F_SEAL_FUTURE_WRITE)
    return Memfd(size_bytes, (status.st_dev, status.st_ino), is_writable)


def map_memfd(descriptor: int, memfd: Memfd) -> mmap.mmap:
    """Returns the memory, mapped for writing only where that is allowed; raises SharedMemoryFull where it cannot be."""
    access = mmap.PROT_READ | mmap.PROT_WRITE if memfd.is_writable else mmap.PROT_READ
    try:
        return mmap.mmap(descriptor, memfd.size_bytes, mmap.MAP_SHARED, access)
    except (OSError, ValueError) as cause:
        raise SharedMemoryFull(f"the server cannot map {memfd.size_bytes} bytes") from cause


class _Statfs(ctypes.Structure):
    # The first member is all that is read; statfs(2) has 120 bytes on 64-bit machines.
    _fields_ = (("f_type", ctypes.c_long), ("rest", ctypes.c_char * 248))


@cache
def _fstatfs() -> Any:
    function = ctypes.CDLL(None, use_errno=True).fstatfs
    function.argtypes = [ctypes.c_int, ctypes.POINTER(_Statfs)]
    return function


def _file_system(descriptor: int) -> int:
    found = _Statfs()
    if _fstatfs()(descriptor, ctypes.byref(found)) != 0:
        number = ctypes.get_errno()
        raise SharedMemoryUnusable(f"the file system of a descriptor is not known: {os.strerror(number)}")
    return int(found.f_type) & 0xFFFFFFFF
