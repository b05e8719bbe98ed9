"""The addresses of a host: one for all workers, one for each; held while the workers come and go."""

from __future__ import annotations

import errno
import os
import socket
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from mse_grad_server.address import Address
from mse_grad_server.exits import ListenError
from mse_grad_server.unix_socket import UnixSocketFile

__all__ = ["HeldPort", "LeadingPath", "WorkerPath"]


class HeldPort:
    """A port that nobody else is given while we have it; workers of this user listen on it, we do not.

    A socket that is bound and does not listen gets no connection: socket(7), SO_REUSEPORT.
    """

    def __init__(self, address: Address) -> None:
        self.address = address
        self._sockets = ExitStack()

    def open(self) -> None:
        """Takes the port, a free one for 0; raises ListenError where somebody has it."""
        try:
            found = socket.getaddrinfo(
                self.address.host, self.address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )
            missing = [self._take(family, place) for family, _, _, _, place in found]
            if None not in missing:
                raise missing[0] or OSError("the name has no address")
        except OSError as cause:
            self.close()
            raise ListenError(
                f"cannot listen on {self.address}: {cause.strerror or cause}; choose another --listen"
            ) from cause

    def close(self) -> None:
        """Gives the port back."""
        self._sockets.close()

    def _take(self, family: int, place: tuple[Any, ...]) -> OSError | None:
        """Takes one address of those that the name has; returns why it is none of this machine, or None."""
        try:
            if self.address.port:
                _require_free(family, (place[0], self.address.port, *place[2:]))
            held = self._sockets.enter_context(socket.socket(family))
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            held.bind((place[0], self.address.port, *place[2:]))
        except OSError as error:
            # "localhost" has an IPv6 address also where the machine has no IPv6.
            if error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                return error
            raise
        self.address = self.address.with_port(held.getsockname()[1])
        return None


class WorkerPath:
    """The path of one worker's socket, which the worker binds and removes."""

    def __init__(self, address: Address) -> None:
        self.address = address

    @classmethod
    def beside(cls, common: Address, worker: str) -> WorkerPath:
        """Returns the path of a worker such as "npu:3" in the folder of the path that all share.

        Raises:
            ListenError: There can be none.
        """
        path = os.path.join(os.path.dirname(common.path), f"{worker.replace(':', '-')}.sock")
        if path == common.path:
            raise ListenError(f"{common} is the name of a worker's own socket; choose another --listen")
        try:
            return cls(Address.parse(f"unix:{path}"))
        except ValueError as cause:
            raise ListenError(f"worker {worker} cannot listen on unix:{path}: {cause}") from cause

    def open(self) -> None:
        """Looks whether the path is free; raises ListenError where it is not."""
        UnixSocketFile(self.address.path).prepare()

    def close(self) -> None:
        """Removes the socket that a worker left which was killed."""
        with suppress(ListenError):  # somebody else has the path by now
            UnixSocketFile(self.address.path).prepare()


class LeadingPath:
    """A path that leads to the socket of one worker that is ready: a symbolic link, changed in one step."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self._path = Path(address.path)
        self._next = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        self._leads_to = ""

    def open(self) -> None:
        """Looks whether the path is free; raises ListenError where it is not."""
        UnixSocketFile(self.address.path).prepare()

    def lead_to(self, path: str) -> None:
        """Makes the path lead to another; to none for ""."""
        if path == self._leads_to:
            return
        self._leads_to = path
        if path:
            self._next.unlink(missing_ok=True)
            self._next.symlink_to(path)
            self._next.replace(self._path)
        elif self._path.is_symlink():
            self._path.unlink()

    def close(self) -> None:
        """Removes the path."""
        self.lead_to("")


def _require_free(family: int, place: tuple[Any, ...]) -> None:
    # Ports that others share would be shared with us as well, without a word.
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # or what a former server left waiting counts
        probe.bind(place)
