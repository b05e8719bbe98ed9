"""Triton's client, which MLServer's package depends on, against MLServer.

It is separate from the server: both packages define the protocol's messages, and a process cannot load them twice.
"""

from __future__ import annotations

from benchmarks.peers.adapters import triton_client
from benchmarks.peers.adapters.operands import Prepare

__all__ = ["DISTRIBUTION", "connect"]

DISTRIBUTION = "mlserver"

_MODEL = "gradient"  # name that the server gives the model


def connect(address: str) -> Prepare:
    """One channel; tensors as raw contents."""
    return triton_client.over_grpc(address, lambda _dtype: _MODEL)
