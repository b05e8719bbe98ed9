from __future__ import annotations

import socket

import pytest

from mse_grad_server.settings.address import Address, is_on_this_host, parse_numbers


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
        *("unix:", "unix:relative", "unix:/dir/", "unix:/" + "x" * 107, "unix:/" + "ü" * 54),
        *("unix:/a,b", "unix:/a\0b", "unix:/a\nb", "unix:/\udcff"),
    ],
)
def test_text_that_is_not_an_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"address|socket"):
        Address.parse(text)


@pytest.mark.parametrize("text", ["127.0.0.1:1", "127.8.8.8:1", "[::1]:1", "localhost:1", "unix:/a"])
def test_loopback_and_unix_paths_are_local(text: str) -> None:
    assert Address.parse(text).is_local


@pytest.mark.parametrize("text", ["0.0.0.0:1", "[::]:1", "10.0.0.1:1", "example.com:1", "127.0.0.1.example.com:1"])
def test_other_addresses_are_not_local(text: str) -> None:
    assert not Address.parse(text).is_local


def own_address() -> str:
    """Returns this host's address in its network, or that of loopback if it has none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("198.51.100.1", 9))  # connecting a datagram socket sends nothing
        except OSError:
            return "127.0.0.1"
        return str(probe.getsockname()[0])


@pytest.mark.parametrize(
    "peer",
    [
        *("unix:", "unix:/a", "ipv4:127.0.0.1:1", "ipv6:%5B::1%5D:1", "ipv6:[::1]:1", "ipv6:%5B::ffff:127.0.0.1%5D:1"),
        f"ipv4:{own_address()}:1",
        f"ipv6:%5B::ffff:{own_address()}%5D:1",
    ],
)
def test_a_caller_at_an_address_of_this_host_is_on_it(peer: str) -> None:
    assert is_on_this_host(peer)


@pytest.mark.parametrize(
    "peer",
    [
        *("ipv4:198.51.100.1:1", "ipv6:%5B2001:db8::1%5D:1", "ipv6:%5B::ffff:198.51.100.1%5D:1"),
        *("", "ipv4:", "ipv4:127.0.0.1", "ipv4:localhost:1", "dns:127.0.0.1:1", "ipv6:%5Bfe80::1%25none%5D:1"),
    ],
)
def test_any_other_caller_is_on_another_host(peer: str) -> None:
    assert not is_on_this_host(peer)


def test_with_port_replaces_the_port() -> None:
    assert str(Address.parse("[::1]:0").with_port(5)) == "[::1]:5"


def test_grpc_takes_a_path_as_a_uri() -> None:
    assert Address(path="/d/a%20b?c#d e.sock").target == "unix:/d/a%2520b%3Fc%23d%20e.sock"
    assert Address("::1", 5).target == "[::1]:5"


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("", ()),
        (" ", ()),
        ("3", (3,)),
        ("0-7", (0, 1, 2, 3, 4, 5, 6, 7)),
        ("0,2,5-7", (0, 2, 5, 6, 7)),
        (" 5 - 6 , 1 ", (1, 5, 6)),
        ("4-4", (4,)),
        ("1023", (1023,)),
    ],
)
def test_numbers_of_devices_may_be_ranges(text: str, numbers: tuple[int, ...]) -> None:
    assert parse_numbers(text) == numbers


@pytest.mark.parametrize("text", ["a", "-1", "1-", "1,,2", "0..7", "0x1", "1.5", "٣"])
def test_other_text_is_refused_with_what_is_allowed(text: str) -> None:
    with pytest.raises(ValueError, match="write, for example, '0-7', '0,2,5-7'"):
        parse_numbers(text)


@pytest.mark.parametrize("text", ["7-0", "0-1024", "2000"])
def test_a_wrong_range_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="numbers from 0 to 1023, the smaller first"):
        parse_numbers(text)


@pytest.mark.parametrize("text", ["1,1", "0-3,2"])
def test_a_device_named_twice_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="named twice"):
        parse_numbers(text)
