"""The parts of an address that client and server read alike: "host:port", "[ipv6]:port" or "unix:/path".

Each side words its own errors and adds its own rules: a server may listen on port 0, a client cannot connect to it.
"""

from __future__ import annotations

import socket
from contextlib import suppress

__all__ = [
    "MAX_PATH_BYTES",
    "MEMORY_SUFFIX",
    "is_ip",
    "is_loopback_ip",
    "is_own_ip",
    "is_socket_path_text",
    "split_host_port",
]

MAX_PATH_BYTES = 107
"""Longest path of a unix socket: sockaddr_un.sun_path has 108 bytes, and the last one is zero (unix(7))."""
MEMORY_SUFFIX = ".memory"
"""End of the path of the socket for shared memory, behind the path of a server's own socket."""
_MAX_PORT = 65535
_BYTES_4, _LOOPBACK_4 = 4, 127
_LOOPBACK_6 = bytes(15) + b"\1"
_MOST_DIGITS = len(str(_MAX_PORT))


def split_host_port(text: str) -> tuple[str, int] | None:
    """Returns the host of "host:port", brackets included, and the port, 0 to 65535; None if `text` has another form."""
    host, _, port = text.rpartition(":")
    if not host or not (port.isascii() and port.isdigit()) or len(port) > _MOST_DIGITS or int(port) > _MAX_PORT:
        return None
    return host, int(port)


def is_socket_path_text(path: str) -> bool:
    """Whether gRPC takes `path` as one unix socket: printable characters and no comma, at which gRPC would split it."""
    return "," not in path and path.isprintable()


def is_ip(host: str) -> bool:
    """Whether `host`, without brackets, is an IPv4 or IPv6 address rather than a name."""
    return bool(_packed(host))


def is_loopback_ip(host: str) -> bool:
    """Whether `host`, without brackets, is an IP address in 127.0.0.0/8, or ::1."""
    packed = _packed(host)
    return packed == _LOOPBACK_6 or (len(packed) == _BYTES_4 and packed[0] == _LOOPBACK_4)


def is_own_ip(host: str) -> bool:
    """Whether `host`, without brackets, is an IP address of this host; False for names. Asks the local system only."""
    try:
        ((family, _, _, _, address),) = socket.getaddrinfo(host, 0, type=socket.SOCK_DGRAM, flags=socket.AI_NUMERICHOST)
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind(address)  # a host can bind only its own addresses
    except (OSError, UnicodeError):
        return False
    return True


def _packed(host: str) -> bytes:
    """Returns the bytes of an IPv4 or IPv6 address; none for anything else."""
    address, percent, zone = host.partition("%")
    if percent and (not zone or "%" in zone or ":" not in address):
        return b""
    for family in (socket.AF_INET, socket.AF_INET6):
        with suppress(OSError, ValueError):  # ValueError: half of a surrogate pair, or a NUL
            return socket.inet_pton(family, address)
    return b""
