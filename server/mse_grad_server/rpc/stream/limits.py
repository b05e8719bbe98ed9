"""Limits of streams, from the settings."""

from __future__ import annotations

from dataclasses import dataclass

from mse_grad_server.errors import MessageTooLarge
from mse_grad_server.settings.model import Settings, size_text

__all__ = ["StreamLimits"]


@dataclass(frozen=True, slots=True)
class StreamLimits:
    """Limits of one stream, and of the number of streams.

    Attributes:
        max_streams: Most streams at a time; a client of the same host counts once.
        max_open_requests: Most open requests of one stream.
        max_message_bytes: Largest message.
        max_expansion: Most times its size that a compressed message may expand to.
        chunk_bytes: Size of an operand in a chunk, as announced to clients.
        window_bytes: Unanswered operands and gradients at which the server stops reading from a stream.
        stall_timeout_s: Longest time for a client to send missing chunks, or to read answers.
        give_way_s: Longest silence of a client while other requests wait for its bytes.
        admission_wait_s: Longest wait of a request in shared memory while others hold the bytes that may be in flight.
        max_age_s: Age at which a stream drains; infinite for never.
    """

    max_streams: int
    max_open_requests: int
    max_message_bytes: int
    max_expansion: int
    chunk_bytes: int
    window_bytes: int
    stall_timeout_s: float
    give_way_s: float
    admission_wait_s: float
    max_age_s: float

    @classmethod
    def of(cls, settings: Settings) -> StreamLimits:
        """Returns the limits in `settings`."""
        return cls(
            max_streams=settings.max_streams,
            max_open_requests=settings.max_open_requests,
            max_message_bytes=int(settings.max_stream_message_bytes),
            max_expansion=settings.max_expansion,
            chunk_bytes=int(settings.chunk_bytes),
            window_bytes=settings.window_bytes,
            stall_timeout_s=settings.stall_timeout_s,
            give_way_s=settings.give_way_s,
            admission_wait_s=settings.admission_wait_s,
            max_age_s=settings.stream_age_s,
        )

    def require_message(self, size_bytes: int) -> None:
        """Raises MessageTooLarge if a message has more bytes than allowed."""
        if size_bytes > self.max_message_bytes:
            raise MessageTooLarge(
                f"the message has {size_bytes} bytes; at most {self.max_message_bytes} are allowed: send chunks of "
                f"{size_text(self.chunk_bytes)} per operand"
            )
