"""Who counts as one client."""

from __future__ import annotations

from typing import Any

import pytest

from mse_grad_server.metrics.recorder import Origin
from mse_grad_server.rpc.admission.call import Call
from mse_grad_server.rpc.admission.identity import client_of, is_address, place_of
from mse_grad_server.security.tokens import Grant


class Context:
    def __init__(self, peer: str, *names: bytes) -> None:
        self._peer = peer
        self._names = names

    def peer(self) -> str:
        return self._peer

    def peer_identities(self) -> Any:
        return self._names or None


def call(*, token: bytes = b"", name: str = "") -> Call:
    return Call("StreamGradients", Origin("id"), 0.0, token_digest=token, grant=Grant(name))


def test_the_strongest_sign_of_a_caller_is_its_identity() -> None:
    peer = "ipv4:10.0.0.1:1"
    clients = [
        client_of(call(token=b"t1", name="trainer"), Context(peer, b"host-a")),
        client_of(call(token=b"t1"), Context(peer, b"host-a")),
        client_of(call(), Context(peer, b"host-a")),
        client_of(call(), Context(peer)),
    ]
    assert len(set(clients)) == len(clients)
    assert [is_address(client) for client in clients] == [False, False, False, True]


def test_two_tokens_of_one_name_are_one_client() -> None:
    one, other = (client_of(call(token=token, name="trainer"), Context("unix:")) for token in (b"t1", b"t2"))
    assert one == other


def test_the_connections_of_one_address_are_one_client() -> None:
    assert client_of(call(), Context("ipv4:10.0.0.1:1")) == client_of(call(), Context("ipv4:10.0.0.1:2"))


@pytest.mark.parametrize(
    ("peer", "place"),
    [
        ("ipv4:10.0.0.1:50051", "10.0.0.1"),
        ("ipv6:%5B2001:db8:1:2:3:4:5:6%5D:50051", "2001:0db8:0001:0002"),
        ("ipv6:[2001:db8:1:2:aaaa::1]:50051", "2001:0db8:0001:0002"),
        ("ipv6:%5B::ffff:10.0.0.1%5D:50051", "10.0.0.1"),
        ("ipv6:%5B::1%5D:50051", "0000:0000:0000:0000"),
        ("ipv6:%5Bfe80::1%25eth0%5D:50051", "fe80:0000:0000:0000"),
        ("unix:", "unix"),
        ("unix:/run/client.sock", "unix"),
        ("unix-abstract:name", "unix-abstract"),
        ("ipv6:what", ""),
        ("", ""),
    ],
)
def test_a_place_is_an_address_a_network_or_this_host(peer: str, place: str) -> None:
    assert place_of(peer) == place
