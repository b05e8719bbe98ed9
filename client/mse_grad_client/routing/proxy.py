"""HTTP proxy of the connections to a server, as the environment names it for gRPC."""

from __future__ import annotations

import os

from mse_grad.record import Record
from mse_grad_client.routing.address import host_and_port, is_own

__all__ = ["Proxy", "proxy_of"]

# The first variable with a value applies, as in gRPC: its doc/environment_variables.md.
_PROXIES = ("grpc_proxy", "https_proxy", "http_proxy")
# gRPC knows neither NO_PROXY nor "*"; other programs do.
_EXCEPTIONS = ("no_grpc_proxy", "no_proxy", "NO_PROXY")


class Proxy(Record):
    """A proxy: its "host:port", without the password of its URL, and the variable that names it."""

    __slots__ = ("address", "variable")

    def __init__(self, address: str, variable: str) -> None:
        self.address = address
        self.variable = variable

    def __str__(self) -> str:
        return f"the proxy {self.address} ({self.variable})"


def proxy_of(address: str) -> Proxy | None:
    """Returns the proxy on the way to `address`, which `grpc_target` accepts; None for a direct connection.

    Unix sockets, addresses of this host, and hosts that the environment exempts are connected to directly.
    """
    if is_own(address):
        return None
    variable = next((name for name in _PROXIES if os.environ.get(name)), None)
    if variable is None or _is_left_out(*host_and_port(address)):
        return None
    from urllib.parse import urlsplit  # few programs have a proxy, and this import takes 3 ms

    try:
        url = urlsplit(os.environ[variable])
    except ValueError:
        return None
    return Proxy(url.netloc.rpartition("@")[2], variable) if url.scheme == "http" and url.netloc else None


def _is_left_out(host: str, port: int) -> bool:
    host = host.strip("[]").lower()
    entries = (entry for name in _EXCEPTIONS for entry in os.environ.get(name, "").split(","))
    return any(_covers(entry.strip().lower(), host, port) for entry in entries if entry.strip())


def _covers(entry: str, host: str, port: int) -> bool:
    name = entry.removesuffix(f":{port}").removeprefix("*").removeprefix(".").strip("[]")
    if entry == "*" or (name and f".{host}".endswith(f".{name}")):
        return True
    import ipaddress  # as above

    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(name, strict=False)
    except ValueError:  # a name
        return False
