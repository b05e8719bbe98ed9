from __future__ import annotations

import ipaddress

import pytest

from mse_grad.address import is_ip, is_loopback_ip, is_own_ip, is_socket_path_text, split_host_port


@pytest.mark.parametrize(
    ("text", "parts"),
    [("host:0", ("host", 0)), ("[::1]:65535", ("[::1]", 65535)), ("a:b:1", ("a:b", 1))],
)
def test_an_address_splits_at_its_last_colon(text: str, parts: tuple[str, int]) -> None:
    assert split_host_port(text) == parts


@pytest.mark.parametrize("text", ["", "host", ":1", "host:", "host:65536", "host:-1", "host:²", "host:000001"])
def test_text_of_another_form_does_not_split(text: str) -> None:
    assert split_host_port(text) is None


def test_a_socket_path_has_printable_characters_and_no_comma() -> None:
    assert is_socket_path_text("/run/ü b.sock")
    assert not any(map(is_socket_path_text, ("/a,b", "/a\nb", "/a\0b", "/\udcff")))


@pytest.mark.parametrize(
    "host",
    [
        *("1.2.3.4", "127.0.0.1", "127.255.0.9", "128.0.0.1", "0.0.0.0", "01.2.3.4", "1.2.3", "1.2.3.4.5", "256.1.1.1"),
        *("::1", "::", "::2", "fe80::1", "fe80::1%eth0", "::1%lo", "::1%", "fe80::1%a%b", "1.2.3.4%lo", "1::2::3"),
        *(
            "::ffff:10.0.0.1",
            "2001:DB8::1",
            "[::1]",
            "",
            "host",
            "a.b",
            " 1.2.3.4",
            "1.2.3.4 ",
            "\0",
            "\udcff",
            "١.1.1.1",
        ),
    ],
    ids=repr,
)
def test_ip_addresses_are_those_of_the_standard_library(host: str) -> None:
    try:
        known = ipaddress.ip_address(host)
    except ValueError:
        assert not is_ip(host)
        assert not is_loopback_ip(host)
    else:
        assert is_ip(host)
        assert is_loopback_ip(host) is known.is_loopback


def test_addresses_of_the_loopback_interface_are_own() -> None:
    for host in ("127.0.0.1", "127.8.8.8"):
        assert is_ip(host)
        assert is_loopback_ip(host)
        assert is_own_ip(host)


def test_names_and_foreign_addresses_are_not_own() -> None:
    for host in ("localhost", "a..b", "198.51.100.1", "2001:db8::1"):
        assert not is_own_ip(host)
    assert not is_ip("localhost")
    assert not is_loopback_ip("10.0.0.1")
