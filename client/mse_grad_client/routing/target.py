"""Target of a client: the servers that its address names."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from typing import NamedTuple

from mse_grad.address import is_ip
from mse_grad_client.routing.address import grpc_target, host_and_port

__all__ = ["Resolve", "Server", "Target", "look_up"]

Resolve = Callable[[str, int], Sequence[str]]
"""Host and port -> the addresses of its servers, "ip:port" or "[ipv6]:port"; raises OSError."""

_NAME = "dns:///"
_IP_LISTS = ("ipv4:", "ipv6:")
_FORMS = (
    "'host:port', '[ipv6]:port', 'unix:/path', 'dns:///host:port', 'ipv4:ip:port,...' or 'ipv6:[ip]:port,...', or a "
    "list of these"
)


class Server(NamedTuple):
    """One server.

    Attributes:
        address: "host:port", "[ipv6]:port" or "unix:/path".
        given: The address that names it: the same, or the "host:port" that was looked up.
    """

    address: str
    given: str


class Given(NamedTuple):
    """One entry of a target: an address, and whether it is a name to look up for any number of servers."""

    address: str
    is_name: bool


class Target(NamedTuple):
    """The entries of an address, in the order given, each once.

    Attributes:
        entries: The entries; at least one.
    """

    entries: tuple[Given, ...]

    @classmethod
    def of(cls, address: str | Sequence[str]) -> Target:
        """Returns the target that a user gave.

        Raises:
            ValueError: `address` has none of the forms.
        """
        if isinstance(address, (str, bytes)) or not isinstance(address, Sequence):
            addresses: Sequence[str] = (address,)
        else:
            addresses = address
        entries = dict.fromkeys(entry for each in addresses for entry in _entries(each))
        if not entries:
            raise ValueError(f"address is {address!r}; it must be {_FORMS}")
        return cls(tuple(entries))

    @property
    def has_many(self) -> bool:
        """Whether it may stand for several servers."""
        return len(self.entries) > 1 or self.entries[0].is_name

    @property
    def first(self) -> str:
        """The address of the first entry."""
        return self.entries[0].address

    def __str__(self) -> str:
        return ", ".join(f"{_NAME}{entry.address}" if entry.is_name else entry.address for entry in self.entries)


def look_up(host: str, port: int) -> list[str]:
    """Returns the addresses of a host, as the system resolves its name; see Resolve."""
    found = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)
    addresses = (str(place[0]) for _, _, _, _, place in found)
    return [f"[{address}]:{port}" if ":" in address else f"{address}:{port}" for address in dict.fromkeys(addresses)]


def _entries(address: object) -> list[Given]:
    if not isinstance(address, str):
        raise ValueError(f"address is {address!r}; it must be {_FORMS}")
    if address.startswith(_NAME):
        name = address.removeprefix(_NAME)
        host = _checked(name, address).strip("[]")
        return [Given(name, not is_ip(host))]
    for prefix in _IP_LISTS:
        places = address.removeprefix(prefix)
        if address.startswith(prefix) and not places.isdigit():  # "ipv4:50051" is a host with this name
            hosts = [_checked(place, address) for place in places.split(",")]
            if not all(is_ip(host.strip("[]")) and host.startswith("[") is (prefix == "ipv6:") for host in hosts):
                raise ValueError(f"address is {address!r}; after {prefix!r} come IP addresses of that version")
            return [Given(place, False) for place in places.split(",")]
    try:
        grpc_target(address)
    except ValueError:
        raise ValueError(f"address is {address!r}; it must be {_FORMS}") from None
    return [Given(address, False)]


def _checked(place: str, address: str) -> str:
    """Returns the host of "host:port", a part of `address`; raises ValueError."""
    try:
        return host_and_port(place)[0]
    except ValueError:
        raise ValueError(f"address is {address!r}; it must be {_FORMS}") from None
