"""Framing of direct connections: each message stands behind its length, four bytes, the most significant first."""

from __future__ import annotations

from mse_grad.codec.writable import unfilled_message
from mse_grad.reasons import ContractError, Reason
from mse_grad.tensor import Buffer

__all__ = ["HEAD_BYTES", "MAX_GREETING_BYTES", "FrameBuffer", "drop_sent", "head"]

HEAD_BYTES = 4
"""Size of the length before each message."""
MAX_GREETING_BYTES = 256
"""Largest DirectGreeting."""

# Small messages arrive in one buffer of this size, several at a time; a larger one gets its own.
_BUFFER_BYTES = 64 * 1024


def head(size_bytes: int) -> bytes:
    """Returns the length that stands before a message of `size_bytes`, at most 4 GiB - 1."""
    return size_bytes.to_bytes(HEAD_BYTES, "big")


def drop_sent(buffers: list[Buffer], sent_bytes: int) -> None:
    """Drops the first `sent_bytes` of `buffers`, which were sent, from the list."""
    whole = 0
    for buffer in buffers:
        if len(buffer) > sent_bytes:
            break
        sent_bytes -= len(buffer)
        whole += 1
    del buffers[:whole]
    if sent_bytes:
        buffers[0] = memoryview(buffers[0])[sent_bytes:]


class FrameBuffer:
    """Buffer that cuts the received bytes of one connection into messages. Not thread-safe.

    Receive into `room`, report the number of bytes to `received`, then take every `next_message`.

    Args:
        most_bytes: Largest message that is accepted. Nothing is allocated for a larger one.
    """

    def __init__(self, *, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._buffer = bytearray(_BUFFER_BYTES)
        self._view = memoryview(self._buffer)
        self._begin = self._end = 0  # of the bytes in the buffer that are not taken yet
        # The large message, its contents that can be written, and how many of them have come.
        self._large: bytes | None = None
        self._contents = self._view
        self._filled = 0

    @property
    def has_bytes(self) -> bool:
        """Whether a message, or a part of one, has been received and not taken."""
        return self._large is not None or self._end > self._begin

    def next_message(self) -> bytes | None:
        """Returns the next message, or None if it is not complete.

        Raises:
            ContractError: MESSAGE_TOO_LARGE; nothing further can be read from the connection.
        """
        large = self._large
        if large is not None:
            if self._filled < len(large):
                return None
            self._large = None
            self._contents = self._view
            return large
        begin, received = self._begin, self._end - self._begin
        if received < HEAD_BYTES:
            return None
        body = begin + HEAD_BYTES
        size = int.from_bytes(self._view[begin:body], "big")
        if size > self._most_bytes:
            raise ContractError(
                Reason.MESSAGE_TOO_LARGE,
                "",
                f"a message of {size} bytes was announced; at most {self._most_bytes} are allowed",
            )
        if received >= HEAD_BYTES + size:
            self._begin = body + size
            return bytes(self._view[body : body + size])
        if HEAD_BYTES + size > _BUFFER_BYTES:
            self._large, self._contents = unfilled_message(size)
            self._filled = received - HEAD_BYTES
            self._contents[: self._filled] = self._view[body : self._end]
            self._begin = self._end = 0
        return None

    def room(self) -> memoryview:
        """Returns the place for the next bytes; it is not empty once `next_message` has returned None."""
        if self._large is not None:
            return self._contents[self._filled :]
        if self._begin:
            rest = bytes(self._view[self._begin : self._end])
            self._view[: len(rest)] = rest
            self._begin, self._end = 0, len(rest)
        return self._view[self._end :]

    def received(self, size_bytes: int) -> None:
        """Notes that `size_bytes` were received into `room`."""
        if self._large is None:
            self._end += size_bytes
        else:
            self._filled += size_bytes
