"""Addresses of servers and their workers."""

from __future__ import annotations

import re
import socket
from typing import TypeGuard

from mse_grad.address import MAX_PATH_BYTES, is_loopback_ip, is_own_ip, is_socket_path_text, split_host_port

__all__ = ["grpc_target", "host_and_port", "is_on_this_host", "is_own", "worker_address"]

# Bytes of a path that stand for themselves in a URI (RFC 3986, section 2.3), and the slash.
_PLAIN = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~/")
_HOST = r"\[[0-9a-fA-F:.%]+\]|[^\s:/\[\]]+"


def grpc_target(address: str) -> str:
    """Returns the gRPC target of "host:port", "[ipv6]:port" or "unix:/path".

    Raises:
        ValueError: `address` has none of these forms.
    """
    if not _is_text(address):
        raise _not_an_address(address)
    if address.startswith("unix:") and len(address) > len("unix:"):
        path = _quoted(_checked_path(address.removeprefix("unix:")))
        # gRPC takes a URI. There a path that begins with two slashes follows an authority, here an empty one.
        return f"unix://{path}" if path.startswith("//") else f"unix:{path}"
    host, port = host_and_port(address)
    return f"dns:///{host}:{port}"


def host_and_port(address: str) -> tuple[str, int]:
    """Returns both parts of "host:port" or "[ipv6]:port"; raises ValueError for any other form."""
    found = split_host_port(address)
    if found is None or re.fullmatch(_HOST, found[0]) is None or found[1] == 0:
        raise _not_an_address(address)
    return found


def worker_address(named: str, *, given: str) -> str | None:
    """Returns the address for this client of a worker that the server at `given` calls `named`; None to skip it.

    A worker that listens on all interfaces is on the host of `given`. A unix socket or a loopback address is valid on
    the server's own host only: elsewhere it would belong to another server.
    """
    if named == given:
        return named
    is_near = is_on_this_host(given)
    try:
        grpc_target(named)
        if named.startswith("unix:"):
            return named if is_near else None
        host, port = host_and_port(named)
    except ValueError:
        return None  # a form that only newer versions know, or no address
    if host in ("0.0.0.0", "[::]"):  # noqa: S104 - compared, not bound
        near_host = "127.0.0.1" if host == "0.0.0.0" else "[::1]"  # noqa: S104
        return f"{near_host if given.startswith('unix:') else host_and_port(given)[0]}:{port}"
    return named if is_near or not _is_loopback(named) else None


def is_on_this_host(address: str) -> bool:
    """Whether `address`, which `grpc_target` accepts, is a unix socket or a loopback address."""
    return address.startswith("unix:") or _is_loopback(address)


def is_own(address: str) -> bool:
    """Whether `address` belongs to this host, as far as this host can tell without a DNS query."""
    if is_on_this_host(address):
        return True
    host = host_and_port(address)[0].strip("[]").lower()
    return host == socket.gethostname().lower() or is_own_ip(host)


def _is_text(address: object) -> TypeGuard[str]:
    """Whether it is a str that the system accepts: without a NUL, or half of a surrogate pair."""
    if not isinstance(address, str) or "\0" in address:
        return False
    try:
        address.encode()
    except UnicodeEncodeError:
        return False
    return True


def _not_an_address(given: object) -> ValueError:
    return ValueError(f"address is {given!r}; it must be 'host:port', '[ipv6]:port' or 'unix:/path'")


def _checked_path(path: str) -> str:
    if not is_socket_path_text(path):
        raise ValueError(
            f"address is {f'unix:{path}'!r}; the path of a unix socket must have printable characters of UTF-8, and "
            "no comma, at which gRPC would split it"
        )
    if len(path.encode()) > MAX_PATH_BYTES:
        raise ValueError(
            f"the path of a unix socket has at most {MAX_PATH_BYTES} bytes; that of 'unix:{path}' has more"
        )
    return path


def _quoted(path: str) -> str:
    """Returns `path` as it is written in a URI."""
    return "".join(chr(byte) if byte in _PLAIN else f"%{byte:02X}" for byte in path.encode())


def _is_loopback(address: str) -> bool:
    if address.startswith("unix:"):
        return False
    host = host_and_port(address)[0].strip("[]").lower()
    return host == "localhost" or is_loopback_ip(host)
