"""One RPC, as everything that handles it sees it."""

from __future__ import annotations

import math
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Protocol

from mse_grad_server.backends.base import GradientSpec
from mse_grad_server.clock import Timer
from mse_grad_server.errors import ServerError

__all__ = ["CURRENT_CALL", "Call", "Removable", "is_request_id"]

_MAX_REQUEST_ID_CHARACTERS = 128


class Removable(Protocol):
    """A stream whose client may be told to open another one."""

    def drain(self, why: ServerError | None = None) -> None:
        """Takes no more requests, says so and why, and ends after those that it has."""

    def cut_off(self) -> None:
        """Ends at once."""


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
        token_digest: SHA-256 of the token that it was opened with; b"" where none was needed.
        streams: What goes on over it, and may be told to go away.
        cutting_off: The end of the time that these then have.
    """

    method: str
    request_id: str
    began_s: float
    spec: GradientSpec | None = None
    deadline_s: float = math.inf
    trace_id: str = ""
    token_digest: bytes = b""
    streams: list[Removable] = field(default_factory=list)
    cutting_off: Timer | None = None


# Set by the interceptor for the task of the RPC, and so seen by its handler alone.
CURRENT_CALL: ContextVar[Call] = ContextVar("current_call")


def is_request_id(text: str) -> bool:
    """Whether `text` can name a request: 1 to 128 characters of printable ASCII."""
    return 0 < len(text) <= _MAX_REQUEST_ID_CHARACTERS and text.isascii() and text.isprintable()
