"""Metadata of an RPC: its bounds, and the origin that it states.

gRPC has a bound of its own, which holds only once the client has acknowledged the settings of its connection.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from mse_grad.metadata import METADATA_PREFIX, is_request_id, valid_metadata
from mse_grad_server.errors import MessageTooLarge
from mse_grad_server.metrics.recorder import Origin, Recorder
from mse_grad_server.rpc.admission.call import trace_id_of
from mse_grad_server.rpc.admission.guard import REQUEST_ID_KEY

__all__ = ["MOST_BYTES", "MOST_PAIRS", "Metadata", "excess", "origin_in"]

Metadata: TypeAlias = "Sequence[tuple[str, Any]]"
"""Pairs of key and value, a str, or bytes behind a key that ends in "-bin"."""

MOST_PAIRS = 128
"""Most pairs of one RPC. HPACK names a pair with one byte, and the server then holds about 160 bytes for it."""
MOST_BYTES = 16 * 1024
"""Most bytes of all keys and values of one RPC; the default of gRPC's own bound."""

_TRACEPARENT_KEY = "traceparent"


def excess(metadata: Metadata) -> MessageTooLarge | None:
    """Returns the error that refuses an RPC with too much metadata, or None."""
    if len(metadata) > MOST_PAIRS:
        return MessageTooLarge(f"the metadata has {len(metadata)} pairs; the server accepts {MOST_PAIRS}")
    size_bytes = sum(len(key) + len(value) for key, value in metadata)
    if size_bytes > MOST_BYTES:
        return MessageTooLarge(f"the metadata has {size_bytes} bytes; the server accepts {MOST_BYTES}")
    return None


def origin_in(
    metadata: Metadata, recorder: Recorder, began_s: float, *, made_id: Callable[[], str], is_request: bool
) -> Origin:
    """Returns name, words and trace of an RPC; of metadata with too many pairs nothing is read.

    Args:
        metadata: Metadata of the RPC.
        recorder: Makes the timeline of a traced request.
        began_s: Time when the RPC began.
        made_id: Returns a request id of the server's, for a caller that sent none.
        is_request: Whether the RPC is one request for a gradient.
    """
    if len(metadata) > MOST_PAIRS:
        metadata = ()
    request_id = next((value for key, value in metadata if key == REQUEST_ID_KEY and is_request_id(value)), "")
    traceparent = next((value for key, value in metadata if key == _TRACEPARENT_KEY), "")
    return Origin(
        request_id or made_id(),
        valid_metadata(
            (key.removeprefix(METADATA_PREFIX), value) for key, value in metadata if key.startswith(METADATA_PREFIX)
        ),
        trace_id_of(traceparent),
        recorder.timeline(traceparent, began_s) if is_request else None,
    )
