"""Unary RPCs under way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

__all__ = ["UnaryCall"]


class UnaryCall(Protocol):
    """A unary RPC under way."""

    def cancel(self) -> bool:
        """Ends the RPC from this side."""

    def add_done_callback(self, fn: Callable[[Any], None]) -> None:
        """Calls `fn` when the RPC has ended, in a thread of gRPC's."""

    def done(self) -> bool:
        """Returns whether the RPC has ended."""

    def result(self) -> bytes:
        """Returns the answer, once the RPC has ended; raises grpc.RpcError."""
