"""Sockets on which clients of the same host hand over memory: an abstract address, and a file beside a unix address.

The abstract address has no file and ends with the process, but a network namespace ends it too: a client in another pod
or container cannot reach it. It can reach the file if it has mounted its folder.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable

from mse_grad.address import MAX_PATH_BYTES, MEMORY_SUFFIX
from mse_grad_server.process.exits import ListenError
from mse_grad_server.process.socket_file import SocketAccess, UnixSocketFile

__all__ = ["MemoryListeners"]

_BACKLOG = 64


class MemoryListeners:
    """Listening sockets of type SOCK_SEQPACKET, which do not block.

    Args:
        name: Abstract address, without its leading zero byte.
        beside: Path of the server's own unix socket; "" if it has none, and then there is no file.
        access: Users who may connect to the file.
        on_no_file: Called with the reason if there should be a file and cannot be one.

    Attributes:
        name: Abstract address, without its leading zero byte.
        path: Path of the file; "" if there is none.
        sockets: The sockets that listen.
    """

    def __init__(
        self, name: str, *, beside: str, access: SocketAccess | None, on_no_file: Callable[[str], None]
    ) -> None:
        self.name = name
        self.path = f"{beside}{MEMORY_SUFFIX}" if beside else ""
        self.sockets: list[socket.socket] = []
        self._file = UnixSocketFile(self.path, access, kind=socket.SOCK_SEQPACKET)
        self._on_no_file = on_no_file

    def open(self) -> None:
        """Listens; raises OSError if it cannot at the abstract address."""
        self._listen(f"\0{self.name}")
        if not self.path:
            return
        try:
            if len(os.fsencode(self.path)) > MAX_PATH_BYTES:
                raise ListenError(f"{self.path} is longer than the {MAX_PATH_BYTES} bytes of a socket's path")
            self._file.prepare()
            self._listen(self.path)
            self._file.bound()
        except (ListenError, OSError) as error:
            self.path = ""
            for listener in self.sockets[1:]:
                listener.close()
            del self.sockets[1:]
            self._on_no_file(str(error))

    def close(self) -> None:
        """Stops listening and removes the file."""
        for listener in self.sockets:
            listener.close()
        self.sockets.clear()
        self._file.remove()

    def _listen(self, address: str) -> None:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
        try:
            listener.bind(address)
            listener.listen(_BACKLOG)
        except OSError:
            listener.close()
            raise
        self.sockets.append(listener)
