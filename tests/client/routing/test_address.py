"""The address at which a client connects to a worker that a server names."""

from __future__ import annotations

import socket
from urllib.parse import quote

import pytest

from mse_grad_client.routing.address import grpc_target, is_own, worker_address


@pytest.mark.parametrize(
    ("given", "named", "there"),
    [
        ("127.0.0.1:1", "127.0.0.1:1", "127.0.0.1:1"),
        ("127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:2"),
        ("[::1]:1", "127.0.0.1:2", "127.0.0.1:2"),
        ("localhost:1", "127.0.0.1:2", "127.0.0.1:2"),
        ("127.0.0.1:1", "unix:/run/worker.sock", "unix:/run/worker.sock"),
        ("unix:/run/all.sock", "unix:/run/worker.sock", "unix:/run/worker.sock"),
        ("unix:/run/all.sock", "127.0.0.1:2", "127.0.0.1:2"),
        ("10.0.0.5:1", "10.0.0.5:2", "10.0.0.5:2"),
        ("npu-host:1", "10.0.0.5:2", "10.0.0.5:2"),
        ("npu-host:1", "npu-host.example:2", "npu-host.example:2"),
        ("[2001:db8::5]:1", "[2001:db8::5]:2", "[2001:db8::5]:2"),
    ],
)
def test_a_worker_is_reached_at_the_address_that_the_server_names(given: str, named: str, there: str) -> None:
    assert worker_address(named, given=given) == there


@pytest.mark.parametrize(
    ("given", "named", "there"),
    [
        ("10.0.0.5:1", "0.0.0.0:2", "10.0.0.5:2"),
        ("npu-host:1", "[::]:2", "npu-host:2"),
        ("unix:/run/all.sock", "0.0.0.0:2", "127.0.0.1:2"),
        ("unix:/run/all.sock", "[::]:2", "[::1]:2"),
    ],
)
def test_a_worker_that_listens_everywhere_is_on_the_host_that_was_given(given: str, named: str, there: str) -> None:
    assert worker_address(named, given=given) == there


@pytest.mark.parametrize("given", ["10.0.0.5:1", "npu-host:1", "[2001:db8::5]:1"])
@pytest.mark.parametrize("named", ["127.0.0.1:2", "127.8.8.8:2", "[::1]:2", "localhost:2", "unix:/run/worker.sock"])
def test_an_address_that_only_the_servers_host_reaches_is_not_tried_from_elsewhere(given: str, named: str) -> None:
    assert worker_address(named, given=given) is None


@pytest.mark.parametrize(
    "address", ["127.0.0.1:1", "unix:/run/all.sock", "localhost:1", "0.0.0.0:1", f"{socket.gethostname()}:1"]
)
def test_an_address_of_this_host_is_its_own(address: str) -> None:
    assert is_own(address)


@pytest.mark.parametrize(
    "address", ["198.51.100.1:1", "[2001:db8::1]:1", "elsewhere.invalid:1", "a..b:1", f"{'a' * 70}.invalid:1"]
)
def test_an_address_elsewhere_is_not(address: str) -> None:
    assert not is_own(address)


def test_an_address_of_a_form_that_is_not_known_is_not_tried() -> None:
    assert worker_address("vsock:3:50051", given="127.0.0.1:1") is None


@pytest.mark.parametrize("named", ["", "unix:/a,b", "unix:/" + "x" * 107, "a\0b:1", "unix:/\0", "127.0.0.1:65536"])
def test_what_is_no_address_is_not_tried(named: str) -> None:
    assert worker_address(named, given="127.0.0.1:1") is None


@pytest.mark.parametrize("address", ["unix:/a,b", "unix:/a\nb", "unix:/" + "x" * 107])
def test_a_path_that_no_socket_can_have_is_refused(address: str) -> None:
    with pytest.raises(ValueError, match="the path of a unix socket"):
        grpc_target(address)


def test_grpc_takes_a_path_as_a_uri() -> None:
    assert grpc_target("unix:/d/a%20b?c#d.sock") == "unix:/d/a%2520b%3Fc%23d.sock"
    assert grpc_target("unix://d/a.sock") == "unix:////d/a.sock"
    every = "/" + "".join(chr(code) for code in range(33, 127) if chr(code) != ",")
    assert grpc_target(f"unix:{every}") == f"unix:{quote(every)}"
    assert grpc_target("unix:/ü ñ") == f"unix:{quote('/ü ñ')}"


@pytest.mark.parametrize(
    "address",
    ["", "host", "host:0", "host:65536", "host:1:2", "::1:50051", "unix:", "unix:/\udcff", "a b:1", "host:\u0661"],
)
def test_another_form_is_refused_with_the_known_forms(address: str) -> None:
    with pytest.raises(ValueError, match=r"it must be 'host:port', '\[ipv6\]:port' or 'unix:/path'"):
        grpc_target(address)
