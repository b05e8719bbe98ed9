"""Output files that are complete or not there."""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import BinaryIO

__all__ = ["written"]

# Those of a file without a former one, of which the umask takes some, and the only ones that are kept of a former one.
_NEW, _KEPT = 0o666, 0o777


@contextmanager
def written(path: str) -> Iterator[BinaryIO]:
    """Yields a file that replaces `path` when the block ends; after an exception `path` is as it was before.

    The permissions of the old file stay: whoever closed it to others does not expect the new one to be open. Symbolic
    links stay and their target is replaced. Devices and pipes, which cannot be replaced, are written to directly. If
    the process is killed, a hidden file ".NAME.*.tmp" may remain beside `path`.

    Raises:
        OSError: The file cannot be written.
    """
    target = os.path.realpath(path)
    mode = _mode(target)
    if mode is not None and not stat.S_ISREG(mode):
        with open(target, "wb") as stream:
            yield stream
        return
    folder, name = os.path.split(target)
    partial = os.path.join(folder, f".{name}.{secrets.token_hex(4)}.tmp")
    try:
        with open(partial, "xb", opener=_opener(mode)) as file:
            if mode is not None:  # the umask may have left less
                os.chmod(partial, mode & _KEPT)
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, target)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(partial)
        raise


def _mode(path: str) -> int | None:
    """Returns the mode of a file; None if there is none."""
    try:
        return os.stat(path).st_mode
    except FileNotFoundError:
        return None


def _opener(mode: int | None) -> Callable[[str, int], int]:
    permissions = _NEW if mode is None else mode & _KEPT
    return lambda path, flags: os.open(path, flags, permissions)
