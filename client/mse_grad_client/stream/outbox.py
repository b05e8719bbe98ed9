"""Parts of messages that wait to be sent on one stream."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from mse_grad.codec import Chunk, Header, stream_request_parts
from mse_grad.tensor import Buffer

__all__ = ["MESSAGE_RESERVE_BYTES", "Outbox"]

# Bounds of one message that packs several waiting parts; measured: 64 small gradients are the optimum.
_PACK_PARTS = 64
_PACK_BYTES = 64 * 1024

# Every server accepts messages of this size.
_LEAST_BYTES = 64 * 1024

MESSAGE_RESERVE_BYTES = _PACK_BYTES + _PACK_PARTS * 512
"""Bytes that a packed message may hold beside its last chunk: other small chunks, and headers."""


class _Part:
    """An encoded part of a message. The thread that queues it encodes it: an invalid request fails alone, in there.

    Attributes:
        id: Id of the request.
        buffers: Buffers to join, the operands among them.
        size_bytes: Bytes of the buffers.
        opens: Whether the part holds the header of the request.
    """

    __slots__ = ("buffers", "id", "opens", "size_bytes")

    def __init__(self, id: int, buffers: list[Buffer], *, opens: bool = False) -> None:
        self.id = id
        self.buffers = buffers
        self.size_bytes = sum(map(len, buffers))
        self.opens = opens


class Outbox:
    """A queue of parts of messages. Any thread may put parts in; one thread at a time takes messages out.

    Attributes:
        most_bytes: Bytes of a message to which no further part is added; a larger part goes alone.
    """

    def __init__(self) -> None:
        self.most_bytes = _LEAST_BYTES
        self._parts: deque[_Part] = deque()

    def __len__(self) -> int:
        return len(self._parts)

    def open_request(self, id: int, header: Header, chunks: Sequence[Chunk]) -> None:
        """Queues the header of a request with its first chunks; queues nothing if one cannot be encoded."""
        parts = [_Part(id, stream_request_parts((header,), chunks[:1]), opens=True)]
        for chunk in chunks[1:]:
            parts.append(_Part(id, stream_request_parts((), (chunk,))))
        self._parts.extend(parts)

    def add_chunk(self, id: int, chunk: Chunk) -> None:
        """Queues a further chunk."""
        self._parts.append(_Part(id, stream_request_parts((), (chunk,))))

    def add_cancellation(self, id: int) -> None:
        """Queues the cancellation of a request."""
        self._parts.append(_Part(id, stream_request_parts((), (), (id,))))

    def remove(self, id: int) -> bool:
        """Removes all parts of request `id`; returns whether nothing of it was sent."""
        is_whole = False
        for part in list(self._parts):
            if part.id == id:
                try:
                    self._parts.remove(part)
                except ValueError:  # sent meanwhile
                    continue
                is_whole = is_whole or part.opens
        return is_whole

    def clear(self) -> None:
        """Drops everything."""
        self._parts.clear()

    def next_message(self) -> bytes | None:
        """Returns the next message, or None if nothing waits."""
        buffers = self.next_buffers()
        return None if buffers is None else b"".join(buffers)

    def next_buffers(self) -> list[Buffer] | None:
        """Returns the buffers of the next message, operands of the callers among them, or None if nothing waits.

        The call asks when it is ready to send, and only then are parts joined: parts that wait cost no memory, and
        parts that waited together travel together.
        """
        parts = self._parts
        if not parts:
            return None
        buffers: list[Buffer] = []
        size_bytes = 0
        for _ in range(_PACK_PARTS):
            if not parts or size_bytes >= _PACK_BYTES:
                break
            try:
                if size_bytes and size_bytes + parts[0].size_bytes > self.most_bytes:
                    break
                part = parts.popleft()
            except IndexError:  # another thread has just removed its request
                break
            buffers += part.buffers
            size_bytes += part.size_bytes
        return buffers or None
