"""Size of chunks and windows: the user's, or what the server advises, within the bounds that a real server keeps."""

from __future__ import annotations

from mse_grad.v1 import mse_grad_pb2 as pb
from mse_grad_client.options import ClientOptions
from mse_grad_client.stream.outbox import MESSAGE_RESERVE_BYTES

__all__ = ["chunk_elements", "window_chunks"]

_DEFAULT_CHUNK_BYTES = 512 * 1024
_DEFAULT_WINDOW_CHUNKS = 8
# Bounds of the server's settings. Beyond them advice costs the client more than any tensor does: a window of a million
# chunks takes a minute and gigabytes to lay out.
_LEAST_CHUNK_BYTES = 1024
_LEAST_MESSAGE_BYTES = 64 * 1024
_MOST_WINDOW_CHUNKS = 1024


def chunk_elements(limits: pb.Limits, options: ClientOptions, *, itemsize_bytes: int) -> int:
    """Returns the elements of a chunk of a request.

    Args:
        limits: Limits of the server.
        options: Options of the client.
        itemsize_bytes: Bytes of an element.
    """
    wanted_bytes = options.chunk_bytes or max(limits.chunk_bytes or _DEFAULT_CHUNK_BYTES, _LEAST_CHUNK_BYTES)
    message_bytes = max(limits.max_stream_message_bytes, _LEAST_MESSAGE_BYTES)
    # Other parts are packed in front of a chunk only as far as the message has room. Its own header needs some.
    most_bytes = (message_bytes - min(MESSAGE_RESERVE_BYTES, message_bytes // 2)) // 3
    return max(1, min(wanted_bytes, most_bytes) // itemsize_bytes)


def window_chunks(limits: pb.Limits, options: ClientOptions) -> int:
    """Returns how many chunks of a request may be unanswered at a time."""
    advised = limits.window_chunks if limits.window_chunks > 0 else _DEFAULT_WINDOW_CHUNKS
    return options.window_chunks or min(advised, _MOST_WINDOW_CHUNKS)
