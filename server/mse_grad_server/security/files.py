"""Files of certificates, keys and tokens, read without waiting for what never ends."""

from __future__ import annotations

import os
import stat

from mse_grad_server.process.exits import CredentialsError

__all__ = ["read_bounded", "require_file", "state_of"]

# Largest file that is read; tokens for a million callers take less.
_MOST_BYTES = 256 * 2**20


def read_bounded(path: str, where: str) -> bytes:
    """Returns the content of a file or of a pipe; raises CredentialsError for a device without an end.

    Args:
        path: The file.
        where: The flag that names it, for error texts.
    """
    try:
        with open(path, "rb") as file:
            content = file.read(_MOST_BYTES + 1)
    except OSError as cause:
        raise CredentialsError(f"{where}: {cause.strerror}") from cause
    if len(content) > _MOST_BYTES:
        raise CredentialsError(f"{where} has more than {_MOST_BYTES} bytes, which is the most allowed")
    return content


def require_file(path: str) -> None:
    """Raises CredentialsError for what would block whoever reads it, or never end: a pipe, a device."""
    try:
        found = os.stat(path)
    except OSError:  # the error of the read says more
        return
    if not stat.S_ISREG(found.st_mode) and not stat.S_ISDIR(found.st_mode):
        raise CredentialsError(f"{path} is a pipe, a socket or a device; make it a file")
    if found.st_size > _MOST_BYTES:
        raise CredentialsError(f"{path} has {found.st_size} bytes; at most {_MOST_BYTES} are allowed")


def state_of(path: str) -> tuple[int, ...] | None:
    """Returns what changes with a file, or with the link that leads to it; None if there is none."""
    # os.stat follows links: Kubernetes replaces a secret by changing a link.
    try:
        found = os.stat(path)
    except OSError:
        return None
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
