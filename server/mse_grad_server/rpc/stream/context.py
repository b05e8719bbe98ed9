"""Where a stream reads and writes messages."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any, Protocol

__all__ = ["StreamContext"]


class StreamContext(Protocol):
    """Message source and sink of a stream: `grpc.aio.ServicerContext`, or packets."""

    def read(self) -> Awaitable[Any]:
        """Returns the next message, or EOF."""

    def write(self, message: bytes) -> Awaitable[None]:
        """Sends a message; returns when there is room for the next."""
