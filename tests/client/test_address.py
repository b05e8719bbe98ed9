"""Where a client looks for a worker that a server names."""

from __future__ import annotations

import pytest

from mse_grad_client.address import grpc_target, worker_address


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
def test_a_worker_is_looked_for_where_the_server_says(given: str, named: str, there: str) -> None:
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
def test_what_only_the_host_of_the_server_reaches_is_not_tried_from_elsewhere(given: str, named: str) -> None:
    assert worker_address(named, given=given) is None


def test_an_address_of_a_form_that_is_not_known_is_not_tried() -> None:
    assert worker_address("vsock:3:50051", given="127.0.0.1:1") is None


@pytest.mark.parametrize("address", ["", "host", "host:0", "host:65536", "host:1:2", "::1:50051", "unix:", "a b:1"])
def test_another_form_is_refused_with_the_forms_there_are(address: str) -> None:
    with pytest.raises(ValueError, match=r"it must be 'host:port', '\[ipv6\]:port' or 'unix:/path'"):
        grpc_target(address)
