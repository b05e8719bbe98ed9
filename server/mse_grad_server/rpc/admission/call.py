"""Record of an RPC under way: its name, origin, token and streams."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field

from mse_grad_server.backends.base import GradientSpec
from mse_grad_server.backends.progress import Phase
from mse_grad_server.engine.shares import Share
from mse_grad_server.engine.streams import Drainable
from mse_grad_server.metrics.recorder import Origin
from mse_grad_server.process.clock import Timer
from mse_grad_server.rpc.admission.reading import Reading
from mse_grad_server.security.tokens import Grant

__all__ = ["CURRENT_CALL", "Call", "trace_id_of"]

# Source: W3C Trace Context, section 3.2.
_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-.*)?")

# Of a caller without a token, where none is needed.
_ALL_RIGHTS = Grant()
_NO_SHARE = Share()


@dataclass(slots=True)
class Call:
    """RPC under way.

    Attributes:
        method: Name of the method, without package and service.
        origin: Name, words and trace of the RPC.
        began_s: Time when the RPC began.
        spec: Spec of the gradient, once it is known.
        deadline_s: Time when the caller stops waiting, once it is known.
        is_open: Whether the caller still waits.
        phase: Phase of its request.
        token_digest: SHA-256 of the token that the RPC began with; b"" without a token.
        grant: Rights of this token.
        share: What its client holds; used only by calls for gradients.
        streams: Streams of the RPC, which drain if the token is removed.
        reading: Reader of its messages; None if it has none.
        cutting_off: Timer that cuts these streams off after the drain timeout.
        at_end: Calls when gRPC has sent everything of the RPC, or has abandoned it.
    """

    method: str
    origin: Origin
    began_s: float
    spec: GradientSpec | None = None
    deadline_s: float = math.inf
    is_open: bool = True
    phase: Phase = Phase.UPLOAD
    token_digest: bytes = b""
    grant: Grant = _ALL_RIGHTS
    share: Share = _NO_SHARE
    streams: list[Drainable] = field(default_factory=list)
    reading: Reading | None = None
    cutting_off: Timer | None = None
    at_end: list[Callable[[], None]] = field(default_factory=list)

    @property
    def request_id(self) -> str:
        """Request id that the caller sent, or one that the server made."""
        return self.origin.request_id


CURRENT_CALL: ContextVar[Call] = ContextVar("current_call")
"""Call of the current task. The interceptor sets it for the task of the RPC, so only the handler sees it."""


def trace_id_of(traceparent: str) -> str:
    """Returns the 32 hexadecimal digits of the trace, or "" if `traceparent` is not valid."""
    match = _TRACEPARENT.fullmatch(traceparent) if traceparent else None
    return match[1] if match else ""
