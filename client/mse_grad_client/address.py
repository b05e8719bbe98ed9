"""Addresses of servers as users write them."""

from __future__ import annotations

import re

__all__ = ["grpc_target"]

_HOST_PORT = re.compile(r"(?P<host>\[[0-9a-fA-F:.%]+\]|[^\s:/\[\]]+):(?P<port>\d{1,5})")


def grpc_target(address: str) -> str:
    """Returns the gRPC target of "host:port", "[ipv6]:port" or "unix:/path".

    Raises:
        ValueError: `address` has none of these forms.
    """
    if address.startswith("unix:") and len(address) > len("unix:"):
        return address
    found = _HOST_PORT.fullmatch(address)
    if found is None or not 0 < int(found["port"]) < 65536:
        raise ValueError(f"address is {address!r}; it must be 'host:port', '[ipv6]:port' or 'unix:/path'")
    return f"dns:///{address}"
