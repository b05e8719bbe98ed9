"""File of a unix socket: replaced if no process listens on it any longer, removed at the end; its mode and group."""

from __future__ import annotations

import os
import re
import socket
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from mse_grad.descriptors import refuse_descriptors
from mse_grad_server.process.exits import AddressInUse, ListenError
from mse_grad_server.process.listening_sockets import listening_sockets

__all__ = ["SocketAccess", "UnixSocketFile"]

# Names of workers' sockets, as listen_addresses.WorkerPath makes them.
_WORKER_SOCKET = re.compile(r"(cpu|npu)-[0-9]+\.sock")


@dataclass(frozen=True)
class SocketAccess:
    """Users who may connect to a socket file.

    Attributes:
        mode: Permission bits; None for those that the umask leaves.
        group_id: Group of the file; None for the group of the process.
    """

    mode: int | None = None
    group_id: int | None = None


class UnixSocketFile:
    """The path that a server binds. gRPC itself would silently replace a socket on which another server listens.

    Args:
        path: Path of the file.
        access: Users who may connect to it.
        kind: Type of the socket.
    """

    def __init__(
        self, path: str, access: SocketAccess | None = None, *, kind: socket.SocketKind = socket.SOCK_STREAM
    ) -> None:
        self._path = path
        self._access = access or SocketAccess()
        self._kind = kind
        self._bound: tuple[int, int] | None = None

    def prepare(self) -> None:
        """Removes a socket on which no process listens, or the link that a killed supervisor left.

        Raises:
            ListenError: The path is in use or cannot be bound.
        """
        try:
            status = os.lstat(self._path)
        except FileNotFoundError:
            self._check_directory()
            return
        except OSError as cause:
            raise ListenError(f"unix:{self._path} cannot be bound: {cause.strerror}") from cause
        is_link = stat.S_ISLNK(status.st_mode)
        if (is_link or stat.S_ISSOCK(status.st_mode)) and _is_listened_on(self._path, self._kind):
            raise AddressInUse(f"unix:{self._path} is in use: another server listens on it")
        if is_link and not _is_link_to_worker(self._path):
            raise ListenError(f"unix:{self._path} cannot be bound: a link is there, which was left alone")
        if not is_link and not stat.S_ISSOCK(status.st_mode):
            raise ListenError(f"unix:{self._path} cannot be bound: another kind of file is there, which was left alone")
        os.unlink(self._path)

    def bound(self) -> None:
        """Remembers the file that binding created, and sets its mode and group; raises ListenError if it cannot."""
        access = self._access
        try:
            with _held(self._path) as (place, status):
                self._bound = (status.st_dev, status.st_ino)
                if access == SocketAccess():
                    return
                if not stat.S_ISSOCK(status.st_mode):
                    raise ListenError(f"unix:{self._path} was replaced by another file; close its folder to others")
                if access.group_id is not None:
                    os.chown(place, -1, access.group_id)
                if access.mode is not None:
                    os.chmod(place, access.mode)
        except OSError as cause:
            raise ListenError(f"unix:{self._path} cannot get its mode and group: {cause.strerror}") from cause

    def refuse_descriptors(self) -> None:
        """Has the kernel, if it can, refuse descriptors at the socket of gRPC that listens here.

        Otherwise gRPC's threads would drop them; see `descriptors`.
        """
        for found in listening_sockets():
            if found.family == socket.AF_UNIX and _path(found) == self._path:
                refuse_descriptors(found)

    def remove(self) -> None:
        """Removes the bound file, unless another file has its path by now."""
        if self._bound is None:
            return
        with suppress(FileNotFoundError):  # gRPC may have removed it already
            status = os.stat(self._path)
            # A later file may have the same inode number, but it need not be a socket.
            if self._bound == (status.st_dev, status.st_ino) and stat.S_ISSOCK(status.st_mode):
                os.unlink(self._path)

    def _check_directory(self) -> None:
        directory = os.path.dirname(self._path)
        if not os.path.isdir(directory):
            raise ListenError(f"unix:{self._path} cannot be bound: there is no directory {directory}")
        if not os.access(directory, os.W_OK | os.X_OK):
            raise ListenError(f"unix:{self._path} cannot be bound: no permission to write to {directory}")


@contextmanager
def _held(path: str) -> Iterator[tuple[str, os.stat_result]]:
    """Yields a place that means the file at `path` until the end, and its status.

    Whoever may write to the folder could put a link in its place meanwhile, to a file whose mode only this user may
    change.
    """
    if sys.platform != "linux":
        yield path, os.lstat(path)
        return
    descriptor = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{descriptor}", os.fstat(descriptor)
    finally:
        os.close(descriptor)


def _path(listener: socket.socket) -> str:
    try:
        return str(listener.getsockname())
    except OSError:  # closed meanwhile
        return ""


def _is_link_to_worker(path: str) -> bool:
    folder, name = os.path.split(os.readlink(path))
    return folder == os.path.dirname(path) and _WORKER_SOCKET.fullmatch(name) is not None


def _is_listened_on(path: str, kind: socket.SocketKind) -> bool:
    with socket.socket(socket.AF_UNIX, kind) as probe:
        probe.setblocking(False)  # a listener with a full backlog answers EAGAIN, so it exists
        try:
            probe.connect(path)
        except (ConnectionRefusedError, FileNotFoundError):  # FileNotFoundError: a dangling link
            return False
        except BlockingIOError:
            return True
        except OSError as cause:
            raise ListenError(f"unix:{path} cannot be probed: {cause.strerror}") from cause
    return True
