"""Fast codec of the messages on the hot path: the same bytes as the generated code, without its copies.

Encoding writes one buffer; decoding returns views of the given message. Messages that the fast path does not recognise
go through the generated code, so both agree on every message. May import tensor, reasons and the generated messages.
Thread safety: pure functions; a decoded message belongs to its caller.
"""

from __future__ import annotations

from mse_grad.codec.decode import (
    decode_stream_request,
    decode_stream_response,
    decode_unary_request,
    decode_unary_response,
)
from mse_grad.codec.encode import (
    encode_stream_request,
    encode_unary_request,
    open_results,
    open_unary_response,
    stream_request_parts,
)
from mse_grad.codec.messages import (
    Chunk,
    Header,
    MetadataEntry,
    Result,
    SharedRange,
    StreamRequest,
    StreamResponse,
    TensorFrame,
    UnaryRequest,
    UnaryResponse,
)

__all__ = [
    "Chunk",
    "Header",
    "MetadataEntry",
    "Result",
    "SharedRange",
    "StreamRequest",
    "StreamResponse",
    "TensorFrame",
    "UnaryRequest",
    "UnaryResponse",
    "decode_stream_request",
    "decode_stream_response",
    "decode_unary_request",
    "decode_unary_response",
    "encode_stream_request",
    "encode_unary_request",
    "open_results",
    "open_unary_response",
    "stream_request_parts",
]
