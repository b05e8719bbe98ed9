"""Addresses of a host with workers: a common one and one for each worker, held across restarts of the workers."""

from __future__ import annotations

import errno
import os
import socket
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from mse_grad.address import MEMORY_SUFFIX
from mse_grad_server.process.exits import AddressInUse, ListenError
from mse_grad_server.process.socket_file import UnixSocketFile
from mse_grad_server.settings.address import Address

__all__ = ["HeldPort", "LeadingPath", "WorkerPath", "listen_error", "listening_sockets", "why_not_bound"]


class HeldPort:
    """A port that is reserved for workers of this user; this object does not listen on it.

    A socket that is bound and does not listen receives no connection: socket(7), SO_REUSEPORT.
    """

    def __init__(self, address: Address) -> None:
        self.address = address
        self._sockets = ExitStack()

    def open(self) -> None:
        """Reserves the port, or any free one for 0; raises ListenError if another process has it."""
        try:
            found = socket.getaddrinfo(
                self.address.host, self.address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )
            missing = [self._take(family, place) for family, _, _, _, place in found]
            if None not in missing:
                raise missing[0] or OSError("the name has no address")
        except OSError as cause:
            self.close()
            raise listen_error(cause, self.address) from cause

    def close(self) -> None:
        """Releases the port."""
        self._sockets.close()

    def _take(self, family: int, place: tuple[Any, ...]) -> OSError | None:
        """Reserves one address of the host name; returns an error if this machine does not have the address."""
        try:
            if self.address.port:
                _require_free(family, (place[0], self.address.port, *place[2:]))
            held = self._sockets.enter_context(socket.socket(family))
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            held.bind((place[0], self.address.port, *place[2:]))
        except OSError as error:
            # "localhost" may have an IPv6 address even if the machine has no IPv6.
            if error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                return error
            raise
        self.address = self.address.with_port(held.getsockname()[1])
        return None


class WorkerPath:
    """The path of one worker's unix socket, which the worker binds and removes."""

    def __init__(self, address: Address) -> None:
        self.address = address

    @classmethod
    def beside(cls, common: Address, worker: str) -> WorkerPath:
        """Returns the path of a worker such as "npu:3", in the folder of the common path.

        Raises:
            ListenError: The path is not possible.
        """
        path = os.path.join(os.path.dirname(common.path), f"{worker.replace(':', '-')}.sock")
        if path == common.path:
            raise ListenError(f"{common} is the name of a worker's own socket; choose another --listen")
        try:
            return cls(Address.parse(f"unix:{path}"))
        except ValueError as cause:
            raise ListenError(f"worker {worker} cannot listen on unix:{path}: {cause}") from cause

    def open(self) -> None:
        """Checks that the path is free; raises ListenError if it is not."""
        UnixSocketFile(self.address.path).prepare()

    def close(self) -> None:
        """Removes the sockets that a killed worker left."""
        memory = UnixSocketFile(f"{self.address.path}{MEMORY_SUFFIX}", kind=socket.SOCK_SEQPACKET)
        for file in (UnixSocketFile(self.address.path), memory):
            with suppress(ListenError):  # another process has the path by now
                file.prepare()


class LeadingPath:
    """The common path: a symbolic link to the socket of one ready worker, replaced atomically.

    It replaces and removes only its own link, whatever else appears at the path.
    """

    def __init__(self, address: Address) -> None:
        self.address = address
        self._path = Path(address.path)
        self._next = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        self._leads_to = ""

    def open(self) -> None:
        """Checks that the path is free; raises ListenError if it is not."""
        UnixSocketFile(self.address.path).prepare()

    def lead_to(self, path: str) -> None:
        """Makes the path lead to the socket `path`, or removes it for "".

        Raises:
            ListenError: Something else is at the path, or the link cannot be made; a later call tries again.
        """
        if path == self._leads_to:
            return
        try:
            if not os.path.lexists(self._path):
                if path:
                    self._path.symlink_to(path)
            elif not self._is_ours():
                raise FileExistsError(errno.EEXIST, "something else is there, which was left alone")
            elif path:
                if self._next.is_symlink():  # left by a killed process with our process number
                    self._next.unlink()
                self._next.symlink_to(path)
                self._next.replace(self._path)
            else:
                self._path.unlink()
        except OSError as cause:
            what = f"cannot point {self.address} to {path}" if path else f"cannot remove {self.address}"
            raise ListenError(f"{what}: {cause.strerror}") from cause
        self._leads_to = path

    def close(self) -> None:
        """Removes the path if it is still our link."""
        if self._is_ours():
            self.lead_to("")

    def _is_ours(self) -> bool:
        return self._path.is_symlink() and os.readlink(self._path) == self._leads_to


def listening_sockets(address: Address) -> list[socket.socket]:
    """Returns sockets that listen on every address of the host name, on one port, and do not block; raises OSError."""
    sockets: list[socket.socket] = []
    missing: OSError | None = None
    port = address.port
    try:
        for family, _, _, _, place in socket.getaddrinfo(
            address.host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        ):
            dualstack = family == socket.AF_INET6 and place[0] == "::" and socket.has_dualstack_ipv6()
            try:
                listener = socket.create_server((place[0], port), family=family, backlog=128, dualstack_ipv6=dualstack)
            except OSError as error:
                # "localhost" may have an IPv6 address even if the machine has no IPv6.
                if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                    raise
                missing = error
                continue
            sockets.append(listener)
            listener.setblocking(False)
            port = listener.getsockname()[1]
        if not sockets:
            raise missing or OSError("the name has no address")
    except OSError:
        for listener in sockets:
            listener.close()
        raise
    return sockets


def listen_error(error: OSError, address: Address, *, setting: str = "--listen") -> ListenError:
    """Returns the error for an address that the system refuses, with the reason and the remedy."""
    words = f"cannot listen on {address}: {error.strerror or error}"
    if error.errno != errno.EADDRINUSE:
        return ListenError(f"{words}; choose another {setting}")
    return AddressInUse(
        f"{words}: another server has it, or an outgoing connection for which the system chose this port ('ss -tanp' "
        f"shows the process); end that, or choose another {setting}"
    )


def why_not_bound(address: Address, *, shares_port: bool) -> ListenError:
    """Returns the error for an address that gRPC cannot bind: gRPC gives no reason, so this tries to bind it again."""
    try:
        for family, _, _, _, place in socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM):
            with socket.socket(family) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, shares_port)
                probe.bind(place)
                probe.listen()
    except OSError as error:
        return listen_error(error, address)
    return AddressInUse(f"cannot listen on {address}, which was in use a moment ago; start again")


def _require_free(family: int, place: tuple[Any, ...]) -> None:
    # A socket with SO_REUSEPORT could silently share a port with other sockets of this user.
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections in TIME_WAIT do not count
        probe.bind(place)
