"""The files, the environment and the user that the doctor looks at."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Host"]


@dataclass(frozen=True)
class Host:
    """A host as a process of some user sees it.

    Attributes:
        root: The folder that stands for "/".
        environment: Variables of the process.
        user_id: Number of the user; 0 may open everything.
        group_ids: Numbers of the user's groups.
    """

    root: Path
    environment: Mapping[str, str]
    user_id: int
    group_ids: frozenset[int]

    @classmethod
    def of_this_process(cls, root: Path = Path("/")) -> Host:
        """Returns the host as this process sees it."""
        if sys.platform == "win32":  # no users by number, and no NPU
            return cls(root, os.environ, 0, frozenset())
        return cls(root, os.environ, os.geteuid(), frozenset((os.getegid(), *os.getgroups())))

    def path(self, name: str | Path) -> Path:
        """Returns where the file with an absolute name lies."""
        return self.root / str(name).lstrip("/")

    def name(self, path: Path) -> str:
        """Returns the absolute name that `path` has on the host."""
        return f"/{path.relative_to(self.root)}"

    def read(self, name: str | Path) -> str | None:
        """Returns the text of a file, or None where there is none or it may not be read."""
        try:
            return self.path(name).read_text(errors="replace")
        except OSError:
            return None

    def fields(self, name: str | Path) -> dict[str, str]:
        """Returns the lines "key=value" of a file, without quotes; none where it cannot be read."""
        lines = (self.read(name) or "").splitlines()
        pairs = (line.partition("=") for line in lines if "=" in line)
        return {key.strip(): value.strip().strip('"') for key, _, value in pairs}

    def may_use(self, path: Path) -> bool:
        """Returns whether the user may read and write a file, by its owner, group and mode."""
        found = path.stat()
        if self.user_id == 0:
            return True
        if found.st_uid == self.user_id:
            wanted = stat.S_IRUSR | stat.S_IWUSR
        elif found.st_gid in self.group_ids:
            wanted = stat.S_IRGRP | stat.S_IWGRP
        else:
            wanted = stat.S_IROTH | stat.S_IWOTH
        return found.st_mode & wanted == wanted
