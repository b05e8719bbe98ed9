"""TLS on a TCP socket for large messages: the bytes of many records in each system call."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator, Sequence
from typing import cast

from mse_grad.tensor import Buffer

__all__ = ["BATCH_BYTES", "TlsSocket"]

BATCH_BYTES = 64 * 1024
"""Most bytes that are encrypted, or received, at a time."""

_FLAGS = int(getattr(socket, "MSG_NOSIGNAL", 0))


class TlsSocket:
    """A TCP connection over TLS. One thread at a time.

    An `ssl.SSLSocket` makes a system call to send a record of 16 KiB, and two to receive one. Here the records go
    through buffers in memory.

    Args:
        connection: A connected socket; owned by this object. Every call blocks as long as the socket does.
        context: Certificates, and what is asked of the other side.
        server_side: Whether this is the server's end.
        server_hostname: Name that the server's certificate must have; None at the server's end.
        room: Buffer for received bytes, of BATCH_BYTES, which the connections of one thread can share; None for an own
            one.
    """

    def __init__(
        self,
        connection: socket.socket,
        context: ssl.SSLContext,
        *,
        server_side: bool = False,
        server_hostname: str | None = None,
        room: bytearray | None = None,
    ) -> None:
        self._connection = connection
        self._received = ssl.MemoryBIO()
        self._encrypted = ssl.MemoryBIO()
        self._tls = context.wrap_bio(
            self._received, self._encrypted, server_side=server_side, server_hostname=server_hostname
        )
        self._room = memoryview(bytearray(BATCH_BYTES) if room is None else room)
        # Encrypted bytes for which the kernel had no room, and the number of the caller's bytes that they hold.
        self._rest: Buffer = b""
        self._under_way_bytes = 0
        self._may_hold_more = True

    @property
    def may_hold_more(self) -> bool:
        """Whether bytes may have been received that `receive_into` has not returned."""
        return self._may_hold_more

    @property
    def has_unsent(self) -> bool:
        """Whether the kernel had no room for encrypted bytes; call `send` or `shake_hands` once it has."""
        return bool(self._rest)

    def shake_hands(self) -> bool:
        """Takes the handshake as far as it goes without waiting longer than the socket does.

        Returns:
            Whether it has ended. If not, call again when the socket is writable, if `has_unsent`, or else readable.

        Raises:
            OSError: The handshake or the connection has failed.
        """
        while self._flush():
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                if self._flush() and not self._fill():
                    return False
            except ssl.SSLError:
                self._flush()  # tells the other side
                raise
            else:
                return self._flush()
        return False

    def receive_into(self, room: memoryview) -> int | None:
        """Receives up to the size of `room`, which is not empty.

        Returns:
            The number of bytes, 0 at the end of the connection, or None if nothing has arrived.

        Raises:
            OSError: The connection has failed.
        """
        size_bytes = 0
        try:
            while size_bytes < len(room):
                try:
                    # Declared as if it returned the bytes, as without a buffer.
                    found_bytes = cast(int, self._tls.read(len(room) - size_bytes, room[size_bytes:]))
                except ssl.SSLWantReadError:
                    if size_bytes or not self._fill():
                        self._may_hold_more = False
                        return size_bytes or None
                else:
                    if not found_bytes:
                        break
                    size_bytes += found_bytes
        except (ssl.SSLEOFError, ssl.SSLZeroReturnError):
            if not size_bytes:
                return 0
        self._may_hold_more = True
        return size_bytes

    def send(self, buffers: Sequence[Buffer]) -> int:
        """Sends as much of `buffers`, one after the other, as the kernel has room for.

        Args:
            buffers: They begin with the bytes that earlier calls did not count as sent: some of those may have been
                encrypted.

        Returns:
            The number of bytes of which the kernel has all.

        Raises:
            OSError: The connection has failed.
        """
        if not self._flush():
            return 0
        sent_bytes, self._under_way_bytes = self._under_way_bytes, 0
        for batch in _batches(buffers, sent_bytes):
            rest = memoryview(batch)
            while rest:
                rest = rest[self._tls.write(rest) :]  # a record
            if not self._flush():
                self._under_way_bytes = len(batch)
                break
            sent_bytes += len(batch)
        return sent_bytes

    def _flush(self) -> bool:
        """Sends encrypted bytes; returns whether none is left."""
        rest = self._rest or self._encrypted.read()
        while rest:
            try:
                sent_bytes = self._connection.send(rest, _FLAGS)
            except BlockingIOError:
                self._rest = rest
                return False
            rest = memoryview(rest)[sent_bytes:] or self._encrypted.read()
        self._rest = b""
        return True

    def _fill(self) -> bool:
        """Receives encrypted bytes; returns whether any came, or the end of the connection."""
        try:
            size_bytes = self._connection.recv_into(self._room)
        except BlockingIOError:
            return False
        if size_bytes:
            self._received.write(self._room[:size_bytes])
        else:
            self._received.write_eof()
        return True


def _batches(buffers: Sequence[Buffer], start: int) -> Iterator[Buffer]:
    """Yields the bytes of `buffers` from `start` on, at most BATCH_BYTES at a time."""
    batch: list[Buffer] = []
    room = BATCH_BYTES
    for buffer in buffers:
        view = memoryview(buffer)[start:]
        start = max(0, start - len(buffer))
        while view:
            part, view = view[:room], view[room:]
            batch.append(part)
            room -= len(part)
            if not room:
                yield batch[0] if len(batch) == 1 else b"".join(batch)
                batch, room = [], BATCH_BYTES
    if batch:
        yield batch[0] if len(batch) == 1 else b"".join(batch)
