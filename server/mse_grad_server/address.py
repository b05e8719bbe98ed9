"""Addresses to listen on: "host:port" or "unix:/path"."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

__all__ = ["Address"]

# sockaddr_un.sun_path holds 108 bytes, the last of them zero: unix(7).
_MAX_PATH_BYTES = 107


@dataclass(frozen=True)
class Address:
    """Where to listen.

    Attributes:
        host: Name or IP address without brackets; "" for a unix path.
        port: 0 to 65535, 0 for a free one.
        path: Absolute path of a unix socket, or "".
    """

    host: str = ""
    port: int = 0
    path: str = ""

    @classmethod
    def parse(cls, text: str) -> Address:
        """Returns the address that `text` writes; raises ValueError that says what is allowed."""
        if text.startswith("unix:"):
            return cls(path=_checked_path(text.removeprefix("unix:")))
        host, colon, port = text.rpartition(":")
        bracketed = host.startswith("[") and host.endswith("]")
        host = host[1:-1] if bracketed else host
        if not colon or not host or not (port.isascii() and port.isdigit()) or int(port) > 65535:
            raise ValueError("an address is 'host:port' with a port of 0 to 65535, '[ipv6]:port' or 'unix:/path'")
        if bracketed != (":" in host) or (bracketed and not _is_ip(host)):
            raise ValueError("an IPv6 address is written in brackets, such as '[::1]:50051'")
        return cls(host=host, port=int(port))

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach it: a unix path, 127.0.0.0/8, ::1 or localhost."""
        if self.path or self.host == "localhost":
            return True
        return _is_ip(self.host) and ipaddress.ip_address(self.host).is_loopback

    def with_port(self, port: int) -> Address:
        """Returns this address with the port that was picked."""
        return Address(self.host, port, self.path)

    def __str__(self) -> str:
        if self.path:
            return f"unix:{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def _checked_path(path: str) -> str:
    if not path.startswith("/") or path.endswith("/"):
        raise ValueError("a unix address is 'unix:' and the absolute path of a socket, e.g. 'unix:/run/mse-grad.sock'")
    if len(path.encode()) > _MAX_PATH_BYTES:
        raise ValueError(f"the path of a unix socket has at most {_MAX_PATH_BYTES} bytes; this one has more")
    return path


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
