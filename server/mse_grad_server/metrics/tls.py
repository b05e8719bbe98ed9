"""TLS of the metrics: a context that follows its files, and a connection with the calls of a plain socket.

Thread safety: belongs to the event loop of the endpoint.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from contextlib import suppress

from mse_grad_server.process.exits import CredentialsError
from mse_grad_server.security.contexts import server_context
from mse_grad_server.security.credentials import in_thread
from mse_grad_server.security.files import require_file, state_of

__all__ = ["MetricsTls", "TlsConnection"]


# A check of the files takes a millisecond, unless their folder does not answer.
_ANSWER_S = 1.0


class MetricsTls:
    """Certificate and key of the metrics, read again after a change.

    Args:
        certificate: PEM file of the certificate chain.
        key: PEM file of its private key.
    """

    def __init__(self, certificate: str, key: str) -> None:
        self._files = (certificate, key)
        self._context: ssl.SSLContext | None = None
        self._seen: list[object] = []
        self._check: asyncio.Task[None] | None = None
        self._is_late = False

    def open(self) -> None:
        """Reads the files; raises CredentialsError if they cannot be used."""
        try:
            self._read()
        except (OSError, ssl.SSLError) as cause:
            raise CredentialsError(
                f"--metrics-tls cannot use --tls-certificate and --tls-key: {cause.strerror or cause}"
            ) from cause

    async def context(self) -> ssl.SSLContext:
        """Returns the context for a new connection; the former one while the files cannot be used.

        A probe waits only once for a folder that does not answer, and not for long.
        """
        if self._check is None or self._check.done():
            self._check = asyncio.get_running_loop().create_task(self._refresh())
            self._is_late = False
        if not self._is_late:
            await asyncio.wait({self._check}, timeout=_ANSWER_S)
            self._is_late = not self._check.done()
        assert self._context is not None
        return self._context

    async def close(self) -> None:
        """Gives up a check that has not ended."""
        if self._check is not None:
            self._check.cancel()
            await asyncio.wait({self._check})

    async def _refresh(self) -> None:
        with suppress(RuntimeError):  # no thread can be started now
            await in_thread(self._read_changed)

    def _read_changed(self) -> None:
        try:
            if self._seen != self._states():
                for path in self._files:
                    require_file(path)
                self._read()
        except (OSError, ssl.SSLError, CredentialsError):
            pass  # `credentials` of the service watches the same files and logs what is wrong with them

    def _read(self) -> None:
        seen = self._states()
        context = server_context(ssl.TLSVersion.TLSv1_2)
        context.load_cert_chain(*self._files, password="")  # otherwise OpenSSL asks the terminal for one
        self._context, self._seen = context, seen

    def _states(self) -> list[object]:
        return [state_of(path) for path in self._files]


class TlsConnection:
    """Connection over TLS to one caller.

    Args:
        reader: Reads what the caller sends.
        writer: Writes to the caller.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def accept(cls, connection: socket.socket, context: ssl.SSLContext) -> TlsConnection:
        """Returns a connection after its handshake, which owns the socket; raises OSError if the handshake fails."""
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader()
        protocol = asyncio.StreamReaderProtocol(reader)
        transport, _ = await loop.connect_accepted_socket(lambda: protocol, connection, ssl=context)
        return cls(reader, asyncio.StreamWriter(transport, protocol, reader, loop))

    async def receive(self, most_bytes: int) -> bytes:
        """Returns the next bytes, b"" at the end; raises OSError."""
        return await self._reader.read(most_bytes)

    async def send(self, message: bytes) -> None:
        """Sends all bytes; raises OSError."""
        self._writer.write(message)
        await self._writer.drain()

    async def end(self) -> None:
        """Closes the connection after everything was sent; raises OSError."""
        self._writer.close()
        await self._writer.wait_closed()

    def close(self) -> None:
        """Closes the connection at once."""
        self._writer.transport.abort()
