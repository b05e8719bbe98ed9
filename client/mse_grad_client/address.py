"""Addresses of servers as users write them, and as servers name their workers."""

from __future__ import annotations

import ipaddress
import re

__all__ = ["grpc_target", "host_and_port", "is_on_this_host", "worker_address"]

_HOST_PORT = re.compile(r"(?P<host>\[[0-9a-fA-F:.%]+\]|[^\s:/\[\]]+):(?P<port>\d{1,5})")


def grpc_target(address: str) -> str:
    """Returns the gRPC target of "host:port", "[ipv6]:port" or "unix:/path".

    Raises:
        ValueError: `address` has none of these forms.
    """
    if address.startswith("unix:") and len(address) > len("unix:"):
        return address
    host, port = host_and_port(address)
    return f"dns:///{host}:{port}"


def host_and_port(address: str) -> tuple[str, int]:
    """Returns both parts of "host:port" or "[ipv6]:port"; raises ValueError where it is neither."""
    found = _HOST_PORT.fullmatch(address)
    if found is None or not 0 < int(found["port"]) < 65536:
        raise ValueError(f"address is {address!r}; it must be 'host:port', '[ipv6]:port' or 'unix:/path'")
    return found["host"], int(found["port"])


def worker_address(named: str, *, given: str) -> str | None:
    """Returns where to reach the worker that the server at `given` calls `named`, or None where it is not to be tried.

    A worker that listens everywhere is on the host of `given`. A unix socket or a loopback address means the server's
    own host: from elsewhere it would be somebody else's.
    """
    if named == given:
        return named
    is_near = is_on_this_host(given)
    if named.startswith("unix:"):
        return named if is_near else None
    try:
        host, port = host_and_port(named)
    except ValueError:
        return None  # of a form that a newer server knows
    if host in ("0.0.0.0", "[::]"):
        near_host = "127.0.0.1" if host == "0.0.0.0" else "[::1]"
        return f"{near_host if given.startswith('unix:') else host_and_port(given)[0]}:{port}"
    return named if is_near or not _is_loopback(named) else None


def is_on_this_host(address: str) -> bool:
    """Whether `address`, one that `grpc_target` takes, is a unix socket or of the loopback interface."""
    return address.startswith("unix:") or _is_loopback(address)


def _is_loopback(address: str) -> bool:
    if address.startswith("unix:"):
        return False
    host = host_and_port(address)[0].strip("[]")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name, which this machine may know as another
        return False
