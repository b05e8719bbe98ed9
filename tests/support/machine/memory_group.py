"""A control group with a limit on memory, of version 1 or 2, for processes under test; needs root."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from support.tools import refuse, require_root
from support.waiting import wait_until

__all__ = ["MemoryGroup", "memory_group"]

# Mount points of cgroups(7): the memory hierarchy of version 1, and the only hierarchy of version 2.
_OLD = Path("/sys/fs/cgroup/memory")
_NEW = Path("/sys/fs/cgroup")


class MemoryGroup:
    """One group.

    Args:
        folder: Its folder.
        limit_bytes: Its limit.
    """

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        self._folder = folder
        self._is_old = folder.is_relative_to(_OLD)
        limit = "memory.limit_in_bytes" if self._is_old else "memory.max"
        (folder / limit).write_text(str(limit_bytes))

    @property
    def command(self) -> list[str]:
        """Beginning of the command line of a process in it, whose children are in it too."""
        return ["sh", "-c", f'echo $$ > "{self._folder}/cgroup.procs" && exec "$@"', "sh"]

    def kills(self) -> int:
        """Returns how many of its processes the kernel has killed for lack of memory."""
        file = self._folder / ("memory.oom_control" if self._is_old else "memory.events")
        counts = dict(line.split() for line in file.read_text(encoding="utf-8").splitlines())
        return int(counts["oom_kill"])


@contextmanager
def memory_group(limit_bytes: int) -> Iterator[MemoryGroup]:
    """Provides a group within the `with`; its processes must have ended by then."""
    require_root()
    folder = _root() / f"mse-grad-test-{os.getpid()}"
    try:
        folder.mkdir()
    except OSError as error:
        refuse(f"this system makes no control group of memory ({error.strerror})")
    try:
        yield MemoryGroup(folder, limit_bytes)
    finally:
        # Servers leave small processes that end when they notice.
        wait_until(lambda: not (folder / "cgroup.procs").read_text(encoding="utf-8"))
        folder.rmdir()


def _root() -> Path:
    if (_OLD / "memory.limit_in_bytes").exists():
        return _OLD
    controllers = _NEW / "cgroup.controllers"
    if not controllers.exists() or "memory" not in controllers.read_text(encoding="utf-8").split():
        refuse("this system has no control groups of memory")
    try:
        (_NEW / "cgroup.subtree_control").write_text("+memory")
    except OSError as error:
        refuse(f"this system's control groups are closed ({error.strerror})")
    return _NEW
