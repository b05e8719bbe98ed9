"""Output files that are complete or not there."""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import BinaryIO

__all__ = ["written"]


@contextmanager
def written(path: str) -> Iterator[BinaryIO]:
    """Yields a file that replaces `path` when the block ends; after an exception `path` is as it was before.

    Symbolic links stay and their target is replaced. Devices and pipes, which cannot be replaced, are written to
    directly. If the process is killed, a hidden file ".NAME.*.tmp" may remain beside `path`.

    Raises:
        OSError: The file cannot be written.
    """
    target = os.path.realpath(path)
    if _is_special(target):
        with open(target, "wb") as stream:
            yield stream
        return
    folder, name = os.path.split(target)
    partial = os.path.join(folder, f".{name}.{secrets.token_hex(4)}.tmp")
    try:
        with open(partial, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, target)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(partial)
        raise


def _is_special(path: str) -> bool:
    try:
        return not stat.S_ISREG(os.stat(path).st_mode)
    except FileNotFoundError:
        return False
