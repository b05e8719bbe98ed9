"""Identity of a caller, by which the server divides itself among clients."""

from __future__ import annotations

from collections.abc import Hashable
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any
from urllib.parse import unquote

from mse_grad_server.rpc.admission.call import Call

__all__ = ["client_of", "is_address", "place_of"]

# A network gives one customer at least this prefix of IPv6 addresses, so a single one tells nothing.
_IPV6_PREFIX_BYTES = 8


def client_of(call: Call, context: Any) -> Hashable:
    """Returns the identity of an RPC's caller: its token's name, its token, its certificate's names, or its address.

    Args:
        call: The RPC, with its token.
        context: gRPC's context of the RPC.
    """
    if call.grant.name:
        return ("name", call.grant.name)
    if call.token_digest:
        return ("token", call.token_digest)
    names = context.peer_identities()
    return ("certificate", *names) if names else ("address", place_of(context.peer()))


def is_address(client: Hashable) -> bool:
    """Whether the caller is known by its address alone, which others may have too."""
    return isinstance(client, tuple) and client[0] == "address"


def place_of(peer: str) -> str:
    """Returns where a connection comes from: the IPv4 address, the network of the IPv6 address, or "unix".

    Args:
        peer: The other end, as gRPC writes it: "ipv4:1.2.3.4:5", "ipv6:%5B2001:db8::1%5D:5" or "unix:...".
    """
    scheme, _, rest = peer.partition(":")
    host = unquote(rest).rpartition(":")[0].strip("[]")
    if scheme == "ipv6":
        try:
            address: IPv4Address | IPv6Address = ip_address(host)
        except ValueError:
            return host
        if isinstance(address, IPv6Address) and address.ipv4_mapped is None:
            return address.packed[:_IPV6_PREFIX_BYTES].hex(":", 2)
        return str(getattr(address, "ipv4_mapped", address))
    return host if scheme == "ipv4" else scheme
