"""The name of the trace that a request belongs to.

Source: W3C Trace Context, section 3.2.
"""

from __future__ import annotations

import re

__all__ = ["trace_id_of"]

_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-.*)?")


def trace_id_of(traceparent: str) -> str:
    """Returns the 32 hexadecimal digits of the trace, or "" where `traceparent` names none."""
    match = _TRACEPARENT.fullmatch(traceparent) if traceparent else None
    return match[1] if match else ""
