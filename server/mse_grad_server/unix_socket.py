"""The file of a unix socket: taken over where nobody listens on it any more, removed at the end."""

from __future__ import annotations

import os
import socket
import stat
from contextlib import suppress

from mse_grad_server.exits import ListenError

__all__ = ["UnixSocketFile"]


class UnixSocketFile:
    """The path that a server binds. gRPC itself would silently take over a socket that another server listens on."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._bound: tuple[int, int] | None = None

    def prepare(self) -> None:
        """Removes a socket that nobody listens on, or a link to one.

        Raises:
            ListenError: The path is in use or cannot be bound.
        """
        try:
            status = os.stat(self._path)
        except FileNotFoundError:
            if os.path.islink(self._path):  # what a supervisor left that was killed
                os.unlink(self._path)
            self._check_directory()
            return
        except OSError as cause:
            raise ListenError(f"unix:{self._path} cannot be bound: {cause.strerror}") from cause
        if not stat.S_ISSOCK(status.st_mode):
            raise ListenError(
                f"unix:{self._path} cannot be bound: a file that is no socket is there; it was left alone"
            )
        if _is_listened_on(self._path):
            raise ListenError(f"unix:{self._path} is in use: another server listens on it")
        os.unlink(self._path)

    def bound(self) -> None:
        """Remembers the file that was made by binding."""
        status = os.stat(self._path)
        self._bound = (status.st_dev, status.st_ino)

    def remove(self) -> None:
        """Removes the file unless it is another one by now."""
        with suppress(FileNotFoundError):  # gRPC removes it as well
            status = os.stat(self._path)
            if self._bound == (status.st_dev, status.st_ino):
                os.unlink(self._path)

    def _check_directory(self) -> None:
        directory = os.path.dirname(self._path)
        if not os.path.isdir(directory):
            raise ListenError(f"unix:{self._path} cannot be bound: there is no directory {directory}")
        if not os.access(directory, os.W_OK | os.X_OK):
            raise ListenError(f"unix:{self._path} cannot be bound: no permission to write to {directory}")


def _is_listened_on(path: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)  # a listener with a full backlog answers EAGAIN: it is there
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            return False
        except BlockingIOError:
            return True
        except OSError as cause:
            raise ListenError(f"unix:{path} cannot be probed: {cause.strerror}") from cause
    return True
