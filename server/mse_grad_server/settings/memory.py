"""Bounds on the memory that callers can make the server hold, derived from the settings."""

from __future__ import annotations

from typing import Protocol

__all__ = ["MemoryBounds"]


# Unanswered data over the objects that hold it: 1 KiB for each chunk.
_DATA_OVER_OBJECTS = 64
# Buffers of connections beside an RPC: a packet; the frames and the records of TLS.
_PACKETS_BYTES = 192 * 1024
_DIRECT_BYTES = 192 * 1024


class _Limits(Protocol):
    @property
    def max_unary_bytes(self) -> int: ...
    @property
    def max_unary_in_flight(self) -> int: ...
    @property
    def max_small_calls(self) -> int: ...
    @property
    def max_small_message_bytes(self) -> int: ...
    @property
    def max_stream_message_bytes(self) -> int: ...
    @property
    def max_streams(self) -> int: ...
    @property
    def chunk_bytes(self) -> int: ...
    @property
    def window_chunks(self) -> int: ...
    @property
    def window_bytes(self) -> int: ...
    @property
    def receive_limit_bytes(self) -> int: ...
    @property
    def shared_memory(self) -> bool: ...
    @property
    def direct_listen(self) -> str: ...


class MemoryBounds:
    """Bounds of settings that have the limits named above."""

    @property
    def receive_limit_bytes(self: _Limits) -> int:
        """The largest message that gRPC receives.

        gRPC rejects a larger message before it buffers it, with a message of its own. So this limit is twice the
        server's: a message up to twice its limit gets an error that names the limit and the alternative.
        """
        return 2 * max(self.max_unary_bytes, self.max_stream_message_bytes)

    @property
    def unary_memory_bytes(self: _Limits) -> int:
        """The most that messages of ComputeGradient hold at a time: a message is read only once a place is free."""
        return self.receive_limit_bytes * self.max_unary_in_flight

    @property
    def window_bytes(self: _Limits) -> int:
        """Unanswered operands and gradients of one stream at which the server stops reading from it."""
        return 4 * self.chunk_bytes * self.window_chunks

    @property
    def most_memory_bytes(self: _Limits) -> int:
        """The most that callers make the server hold, besides their own shared memory and the idle process.

        A stream holds a message that gRPC receives, a message that is being handled, a window plus one message of
        unanswered data, an answer that gRPC sends and, with shared memory, a second window for packets. A direct
        connection beside it holds a message that arrives, one that is being handled, a window plus one message of
        unanswered data, and an answer that is being sent. Both connections have buffers of their own. A call of
        ComputeGradient holds a message and its answer. Every other call holds a message, and a small one that is being
        handled.
        """
        window_bytes = self.window_bytes + self.window_bytes // _DATA_OVER_OBJECTS
        stream_bytes = self.receive_limit_bytes + 3 * self.max_stream_message_bytes + window_bytes
        if self.shared_memory:
            stream_bytes += window_bytes + _PACKETS_BYTES
        if self.direct_listen != "none":
            stream_bytes += 4 * self.max_stream_message_bytes + window_bytes + _DIRECT_BYTES
        call_bytes = self.receive_limit_bytes + self.max_unary_bytes
        return (
            self.max_streams * stream_bytes
            + self.max_unary_in_flight * call_bytes
            + self.max_small_calls * (self.receive_limit_bytes + self.max_small_message_bytes)
        )
