from __future__ import annotations

import pytest

from mse_grad_server.address import Address


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:50051", Address(host="127.0.0.1", port=50051)),
        ("localhost:0", Address(host="localhost", port=0)),
        ("[::1]:65535", Address(host="::1", port=65535)),
        ("unix:/run/mse-grad.sock", Address(path="/run/mse-grad.sock")),
    ],
)
def test_an_address_reads_as_it_is_written(text: str, address: Address) -> None:
    assert Address.parse(text) == address
    assert str(address) == text


@pytest.mark.parametrize(
    "text",
    [
        *("", "nowhere", ":50051", "host:", "host:65536", "host:-1", "host:1.5", "host:²"),
        *("::1:80", "[nonsense::]:1", "[127.0.0.1]:1", "[::1:1"),
        *("unix:", "unix:relative", "unix:/dir/", "unix:/" + "x" * 107),
    ],
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"address|socket"):
        Address.parse(text)


@pytest.mark.parametrize("text", ["127.0.0.1:1", "127.8.8.8:1", "[::1]:1", "localhost:1", "unix:/a"])
def test_loopback_and_unix_paths_are_local(text: str) -> None:
    assert Address.parse(text).is_local


@pytest.mark.parametrize("text", ["0.0.0.0:1", "[::]:1", "10.0.0.1:1", "example.com:1", "127.0.0.1.example.com:1"])
def test_everything_else_can_be_reached_from_elsewhere(text: str) -> None:
    assert not Address.parse(text).is_local


def test_the_port_that_was_picked_replaces_the_one_asked_for() -> None:
    assert str(Address.parse("[::1]:0").with_port(5)) == "[::1]:5"
