"""Builders of fields of the settings: numbers and sizes with bounds, and defaults that depend on the host."""

from __future__ import annotations

import grp
import os
from typing import Any

from pydantic import ByteSize, Field

from mse_grad_server.process.memory_limit import memory_limit_bytes
from mse_grad_server.process.socket_file import SocketAccess

__all__ = ["bounded", "default_mapped_bytes", "default_threads", "size", "socket_access"]

_MIB, _GIB = 2**20, 2**30


def default_threads() -> int:
    """Returns the number of compute threads for the processors of this process."""
    # More threads do not help: four already use the whole memory bandwidth of a socket.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(4, cores)


def default_mapped_bytes(workers: int = 1) -> ByteSize:
    """Returns the bound of shared memory of one worker: a share of half of the memory limit of the process."""
    # A page of a client counts for the server's control group if the server touches it first, and clients decide that.
    share_bytes = memory_limit_bytes() // 2 // workers
    return ByteSize(max(_MIB, min(16 * _GIB, share_bytes) // _MIB * _MIB))


def bounded(default: float, *, most: float, text: str, least: float | None = None, above: float | None = None) -> Any:
    """Returns a field of a number between bounds, with its help text."""
    return Field(default=default, ge=least, gt=above, le=most, description=text)


def size(default_bytes: int, *, least: int, most: int, text: str) -> Any:
    """Returns a field of a size in bytes between bounds, with its help text."""
    return Field(default=ByteSize(default_bytes), ge=least, le=most, description=text)


def socket_access(mode: str, group: str) -> SocketAccess:
    """Returns the access that a checked mode, such as "660", and group, by name or number, give; "" gives none."""
    group_id = None if not group else int(group) if group.isdecimal() else grp.getgrnam(group).gr_gid
    return SocketAccess(int(mode, 8) if mode else None, group_id)
