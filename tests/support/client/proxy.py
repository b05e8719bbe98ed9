"""An HTTP proxy on loopback: tunnels every CONNECT to one server, whatever host the request names."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress

__all__ = ["TunnelProxy"]


class TunnelProxy:
    """Serves as a context manager.

    Attributes:
        address: The proxy's "host:port".
        asked: The first line of each request.
    """

    def __init__(self, server: str, *, answer: bytes = b"HTTP/1.1 200 OK") -> None:
        """Sets the target of the tunnels.

        Args:
            server: The server's "host:port".
            answer: The first line of the answer to CONNECT.
        """
        host, _, port = server.rpartition(":")
        self._server = host, int(port)
        self._answer = answer
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._sockets = [self._listener]
        self._threads: list[threading.Thread] = []
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.asked: list[str] = []

    def __enter__(self) -> TunnelProxy:
        self._start(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        for each in self._sockets:
            _end(each)
        for thread in self._threads:
            thread.join()
        for each in self._sockets:
            each.close()

    def _start(self, target: object, *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self._sockets.append(client)
            self._start(self._serve, client)

    def _serve(self, client: socket.socket) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            came = client.recv(4096)
            if not came:
                return
            head += came
        self.asked.append(head.partition(b"\r\n")[0].decode())
        client.sendall(self._answer + b"\r\n\r\n")
        if b" 200 " not in self._answer:
            _end(client)
            return
        server = socket.create_connection(self._server)
        self._sockets.append(server)
        self._start(_copy, server, client)
        _copy(client, server)


def _copy(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):  # the other side has closed
        while came := source.recv(65536):
            sink.sendall(came)
    _end(sink)


def _end(connection: socket.socket) -> None:
    with suppress(OSError):  # the connection has ended
        connection.shutdown(socket.SHUT_RDWR)
