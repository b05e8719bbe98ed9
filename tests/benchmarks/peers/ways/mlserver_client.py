"""Triton's client, which MLServer's package brings along, against MLServer.

Apart from the server: both packages define the protocol's messages, which one process cannot hold twice.
"""

from __future__ import annotations

from benchmarks.peers.ways import triton_client
from benchmarks.peers.ways.operands import Prepare

__all__ = ["DISTRIBUTION", "connect"]

DISTRIBUTION = "mlserver"

_MODEL = "gradient"  # as the server names it


def connect(address: str) -> Prepare:
    """One channel; tensors as raw contents."""
    return triton_client.over_grpc(address, lambda _dtype: _MODEL)
