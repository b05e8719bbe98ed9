"""One RPC, as everything that handles it sees it."""

from __future__ import annotations

import math
from contextvars import ContextVar
from dataclasses import dataclass

from mse_grad_server.backends.base import GradientSpec

__all__ = ["CURRENT_CALL", "Call", "is_request_id"]

_MAX_REQUEST_ID_CHARACTERS = 128


@dataclass(slots=True)
class Call:
    """An RPC under way.

    Attributes:
        method: Its name without package and service.
        request_id: The caller's name for it, or ours.
        began_s: When it came.
        spec: What is computed, once that is known.
        deadline_s: When the caller stops waiting, once that is known.
        trace_id: Names the trace that it belongs to; "" for none.
    """

    method: str
    request_id: str
    began_s: float
    spec: GradientSpec | None = None
    deadline_s: float = math.inf
    trace_id: str = ""


# Set by the interceptor for the task of the RPC, and so seen by its handler alone.
CURRENT_CALL: ContextVar[Call] = ContextVar("current_call")


def is_request_id(text: str) -> bool:
    """Whether `text` can name a request: 1 to 128 characters of printable ASCII."""
    return 0 < len(text) <= _MAX_REQUEST_ID_CHARACTERS and text.isascii() and text.isprintable()
