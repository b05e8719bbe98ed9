"""The fast codec: the same bytes as the generated code, without its copies.

Encoding writes one buffer; decoding returns views into the message it was given. What the fast path does not recognise
goes through the generated code, so both agree on every message.
Thread safety: pure functions; a decoded frame belongs to its caller.
"""

from __future__ import annotations

from mse_grad.decoder import (
    decode_stream_request,
    decode_stream_response,
    decode_unary_request,
    decode_unary_response,
)
from mse_grad.encoder import encode_stream_request, encode_unary_request, open_results, open_unary_response
from mse_grad.messages import (
    Chunk,
    Header,
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
]
