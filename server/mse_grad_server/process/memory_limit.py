"""Memory limit of this process: the least of its control groups, its address space and the machine."""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Iterator
from pathlib import Path

__all__ = ["memory_limit_bytes"]

# Mount points of cgroups(7): the memory hierarchy of version 1, and the only hierarchy of version 2.
_OLD_GROUPS = "sys/fs/cgroup/memory"
_GROUPS = "sys/fs/cgroup"


def memory_limit_bytes(root: Path = Path("/")) -> int:
    """Returns the smallest limit that applies.

    Args:
        root: Root of the file system that shows the control groups.
    """
    limits_bytes = [sys.maxsize, *_group_limits_bytes(root)]
    pages = os.sysconf("SC_PHYS_PAGES")
    if pages > 0:  # some systems do not report it
        limits_bytes.append(pages * os.sysconf("SC_PAGE_SIZE"))
    address_space_bytes, _ = resource.getrlimit(resource.RLIMIT_AS)
    if address_space_bytes != resource.RLIM_INFINITY:
        limits_bytes.append(address_space_bytes)
    return min(limits_bytes)


def _group_limits_bytes(root: Path) -> Iterator[int]:
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(","):
            folder, names = root / _OLD_GROUPS, ["memory.limit_in_bytes"]
        elif not controllers:
            folder, names = root / _GROUPS, ["memory.max", "memory.high"]
        else:
            continue
        # The limits of all parent groups apply too. A container may not see them.
        group = folder / path.lstrip("/")
        for at in (group, *group.parents):
            if not at.is_relative_to(folder):
                break
            limits = (_text(at / name).strip() for name in names)
            yield from (int(limit) for limit in limits if limit.isdecimal())


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="surrogateescape")
    except OSError:  # the group is not visible, or there are no control groups
        return ""
