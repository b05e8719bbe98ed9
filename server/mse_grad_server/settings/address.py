"""Addresses to listen on, addresses of callers, and numbers of devices, as text."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from urllib.parse import quote, unquote

from mse_grad.address import (
    MAX_PATH_BYTES,
    is_ip,
    is_loopback_ip,
    is_own_ip,
    is_socket_path_text,
    split_host_port,
)

__all__ = ["ALL_DEVICES", "Address", "is_on_this_host", "parse_numbers"]

ALL_DEVICES = "all"
"""Stands for every device that the process may use; the NPU's runtime knows which those are."""

_PEER = re.compile(r"ipv[46]:\[?(?P<host>[^\[\]]+?)\]?:\d+")
_NUMBERS = re.compile(r"\s*([0-9]{1,4})\s*(?:-\s*([0-9]{1,4})\s*)?")
_LARGEST_NUMBER = 1023


@dataclass(frozen=True)
class Address:
    """An address to listen on: "host:port" or "unix:/path".

    Attributes:
        host: Name or IP address without brackets; "" for a unix path.
        port: 0 to 65535; 0 for any free one.
        path: Absolute path of a unix socket, or "".
    """

    host: str = ""
    port: int = 0
    path: str = ""

    @classmethod
    def parse(cls, text: str) -> Address:
        """Parses an address; raises ValueError that says what is allowed."""
        if text.startswith("unix:"):
            return cls(path=_checked_path(text.removeprefix("unix:")))
        host, port = split_host_port(text) or ("", 0)
        bracketed = host.startswith("[") and host.endswith("]")
        host = host[1:-1] if bracketed else host
        if not host:
            raise ValueError("an address is 'host:port' with a port of 0 to 65535, '[ipv6]:port' or 'unix:/path'")
        if bracketed != (":" in host) or (bracketed and not is_ip(host)):
            raise ValueError("an IPv6 address is written in brackets, such as '[::1]:50051'")
        return cls(host=host, port=port)

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach the address: a unix path, 127.0.0.0/8, ::1 or localhost."""
        if self.path or self.host == "localhost":
            return True
        return is_loopback_ip(self.host)

    @property
    def target(self) -> str:
        """The address as a URI for gRPC, with the special characters of a path quoted."""
        return f"unix:{quote(self.path)}" if self.path else str(self)

    def with_port(self, port: int) -> Address:
        """Returns this address with another port."""
        return Address(self.host, port, self.path)

    def __str__(self) -> str:
        if self.path:
            return f"unix:{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def is_on_this_host(peer: str) -> bool:
    """Whether a caller, as gRPC names it, is on this host: at a unix socket or at an address of this host.

    A proxy on this host, or NAT, looks the same. So the answer may decide about shared memory, but not about trust.
    """
    if peer.startswith("unix:"):
        return True
    found = _PEER.fullmatch(unquote(peer))
    if found is None or not is_ip(found["host"]):
        return False
    host = ipaddress.ip_address(found["host"])
    if isinstance(host, ipaddress.IPv6Address) and host.ipv4_mapped is not None:
        host = host.ipv4_mapped
    return host.is_loopback or is_own_ip(str(host))


def parse_numbers(text: str) -> tuple[int, ...]:
    """Parses numbers of devices, such as "0,2,5-7"; "" has none.

    Returns:
        The numbers in ascending order.

    Raises:
        ValueError: The text is not a list of numbers and ranges; the message says what is allowed.
    """
    numbers: list[int] = []
    for part in text.split(",") if text.strip() else []:
        match = _NUMBERS.fullmatch(part)
        if match is None:
            raise ValueError(
                f"{part.strip()!r} is not a number or a range; write, for example, '0-7', '0,2,5-7' or 'all'"
            )
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first or last > _LARGEST_NUMBER:
            raise ValueError(
                f"{part.strip()!r} is not a range of numbers from 0 to {_LARGEST_NUMBER}, the smaller first"
            )
        numbers += range(first, last + 1)
    if len(set(numbers)) < len(numbers):
        raise ValueError("a device is named twice; each has one worker")
    return tuple(sorted(numbers))


def _checked_path(path: str) -> str:
    if not path.startswith("/") or path.endswith("/"):
        raise ValueError("a unix address is 'unix:' and the absolute path of a socket, e.g. 'unix:/run/mse-grad.sock'")
    if not is_socket_path_text(path):
        raise ValueError(
            "the path of a unix socket has printable UTF-8 characters and no comma, at which gRPC would split it"
        )
    if len(path.encode()) > MAX_PATH_BYTES:
        raise ValueError(f"the path of a unix socket has at most {MAX_PATH_BYTES} bytes; this one has more")
    return path
