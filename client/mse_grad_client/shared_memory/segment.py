"""Memory segments without a name (memfd), which a server on the same host may map."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import sys
import weakref
from functools import cache
from typing import Any

import numpy as np

__all__ = ["IS_SUPPORTED", "Segment"]

IS_SUPPORTED = sys.platform == "linux"
"""Whether this system has such memory; on others nothing here may be called."""

# From linux/memfd.h and linux/fcntl.h, as numbers: a Python built on an older system has no names for them.
_MFD_CLOEXEC = 0x0001
_MFD_ALLOW_SEALING = 0x0002
_MFD_NOEXEC_SEAL = 0x0008
_F_ADD_SEALS = 1033
_F_SEAL_SEAL = 0x0001
_F_SEAL_SHRINK = 0x0002
_F_SEAL_GROW = 0x0004
# From linux/mman.h; Python has no name for it.
_MAP_FIXED = 0x10


class Segment:
    """Zeroed memory of a fixed size that a server may map too. The system provides each page when it is first written.

    Args:
        number: Names the segment on every connection; unique within an allocator.
        size_bytes: Size of the memory.
        descriptor: File descriptor of the memory; the segment closes it when it is collected.

    Attributes:
        number: As given.
        size_bytes: As given.
        contents: The whole memory. It lives as long as a view of it, even without the segment.
        descriptor: As given, to be passed to a server.
        is_withdrawn: Whether a server may still write to it for an abandoned request: no new array may lie here.
    """

    contents: memoryview

    def __init__(self, number: int, size_bytes: int, descriptor: int) -> None:
        self.number = number
        self.size_bytes = size_bytes
        self.descriptor = descriptor
        self.is_withdrawn = False
        self._detached: list[range] = []
        weakref.finalize(self, os.close, descriptor).atexit = False

    @classmethod
    def create(cls, number: int, size_bytes: int) -> Segment:
        """Returns a new segment; raises OSError if no descriptor is left, or no room in the address space."""
        if sys.platform != "linux":
            raise OSError("memory without a name needs Linux")
        import fcntl

        segment = cls(number, size_bytes, _new_memory())
        os.ftruncate(segment.descriptor, size_bytes)
        # A server maps only memory that cannot shrink under it.
        fcntl.fcntl(segment.descriptor, _F_ADD_SEALS, _F_SEAL_SHRINK | _F_SEAL_GROW | _F_SEAL_SEAL)
        segment.contents = memoryview(mmap.mmap(segment.descriptor, size_bytes))
        return segment

    def detach(self, offset: int, size_bytes: int) -> None:
        """Replaces the pages of a range by private ones; the range loses its content, its neighbours keep theirs.

        A server then goes on writing to the old pages, which this process no longer sees. Threads that use memory
        beside the range notice nothing: the kernel exchanges the pages under them. One thread at a time.

        Raises:
            OSError: The system has no memory left.
        """
        if sys.platform != "linux":
            return
        page_bytes = mmap.PAGESIZE
        base = np.frombuffer(self.contents, np.uint8).__array_interface__["data"][0]
        start, stop = base + offset, base + offset + size_bytes
        inner_start, inner_stop = -(-start // page_bytes) * page_bytes, stop // page_bytes * page_bytes
        if inner_start < inner_stop:
            _map_over(inner_start, inner_stop - inner_start, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, 0)
            self._detached.append(range(inner_start, inner_stop))
        for page in {start // page_bytes * page_bytes, (stop - 1) // page_bytes * page_bytes}:
            # A page that is already private holds all later writes.
            if any(page in detached for detached in self._detached):
                continue
            # Other arrays have elements on this page. The kernel copies the page when this process first writes to it.
            _map_over(page, page_bytes, mmap.MAP_PRIVATE, self.descriptor, page - base)
            element = ctypes.c_ubyte.from_address(max(page, start))
            element.value = element.value
            self._detached.append(range(page, page + page_bytes))


def _new_memory() -> int:
    """Returns the descriptor of new, empty memory; raises OSError."""
    flags = _MFD_CLOEXEC | _MFD_ALLOW_SEALING
    try:
        # A system may refuse memory that may hold executable code (vm.memfd_noexec, Linux 6.3).
        return _memfd_create(flags | _MFD_NOEXEC_SEAL)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a kernel that does not know the flag
            raise
        return _memfd_create(flags)


def _memfd_create(flags: int) -> int:
    name = "mse-grad"
    create = getattr(os, "memfd_create", None)
    if create is not None:
        descriptor: int = create(name, flags)
        return descriptor
    # A Python built on an older system lacks the function, although the C library has it.
    create = getattr(ctypes.CDLL(None, use_errno=True), "memfd_create", None)
    if create is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    descriptor = create(name.encode(), flags)
    if descriptor < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return descriptor


def _map_over(address: int, size_bytes: int, kind: int, descriptor: int, offset: int) -> None:
    if sys.platform != "linux":
        return
    protection = mmap.PROT_READ | mmap.PROT_WRITE
    got = _mmap()(address, size_bytes, protection, kind | _MAP_FIXED, descriptor, offset)
    if got != address:
        raise OSError(ctypes.get_errno(), "cannot replace shared pages by private ones")


@cache
def _mmap() -> Any:
    function = ctypes.CDLL(None, use_errno=True).mmap
    function.restype = ctypes.c_void_p
    function.argtypes = (
        ctypes.c_void_p,
        ctypes.c_size_t,
        ctypes.c_int,
        ctypes.c_int,
        ctypes.c_int,
        ctypes.c_long,
    )
    return function
