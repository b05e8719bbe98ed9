"""Proxies of the environment: none on the path to this host, and named in errors on the path to others."""

from __future__ import annotations

import socket

import numpy as np
import pytest

from mse_grad_client import ClientOptions, DeadlineExceeded, MseGradClient, RetryOptions, Unavailable
from mse_grad_client.routing.proxy import Proxy, proxy_of
from support.client.proxy import TunnelProxy
from support.client.scripted_server import ScriptedServer
from support.values import expected, operands

VARIABLES = ("grpc_proxy", "https_proxy", "http_proxy")
EXCEPTIONS = ("no_grpc_proxy", "no_proxy", "NO_PROXY")
OWN_NAME = f"{socket.gethostname()}:1"
NOBODY = "http://127.0.0.1:1"  # no proxy listens there
ELSEWHERE = "npu.invalid:50051"  # no name server knows this name
ONCE = ClientOptions(retry=RetryOptions(max_attempts=1), timeout_s=20)


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*VARIABLES, *EXCEPTIONS):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("variable", VARIABLES)
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_server_on_this_host_is_reached_without_the_proxy(
    monkeypatch: pytest.MonkeyPatch, variable: str, host: str
) -> None:
    monkeypatch.setenv(variable, NOBODY)
    given = operands((10,))
    with ScriptedServer() as server:
        address = server.address.replace("127.0.0.1", host)
        with MseGradClient(address, options=ONCE) as client:
            np.testing.assert_array_equal(client.compute(*given), expected(*given))


def test_another_host_is_reached_through_the_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    given = operands((10,))
    with ScriptedServer() as server, TunnelProxy(server.address) as proxy:
        monkeypatch.setenv("http_proxy", f"http://{proxy.address}")
        with MseGradClient(ELSEWHERE, options=ONCE) as client:
            np.testing.assert_array_equal(client.compute(*given), expected(*given))
        assert proxy.asked[0] == f"CONNECT {ELSEWHERE} HTTP/1.1"


@pytest.mark.parametrize("variable", EXCEPTIONS)
def test_an_excluded_host_is_reached_without_the_proxy(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    with ScriptedServer() as server, TunnelProxy(server.address) as proxy:
        monkeypatch.setenv("http_proxy", f"http://{proxy.address}")
        monkeypatch.setenv(variable, "*")
        with MseGradClient(ELSEWHERE, options=ONCE) as client, pytest.raises((Unavailable, DeadlineExceeded)) as caught:
            client.compute(*operands((10,)))
        assert proxy.asked == []
        assert "proxy" not in caught.value.message


def test_a_missing_proxy_is_named_without_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "http://me:secret@127.0.0.1:1")
    with MseGradClient(ELSEWHERE, options=ONCE) as client:
        for call in (lambda: client.compute(*operands((10,))), client.server_info):
            with pytest.raises(Unavailable) as caught:
                call()
            assert f"{ELSEWHERE} through the proxy 127.0.0.1:1 (https_proxy)" in caught.value.message
            assert "secret" not in str(caught.value)


def test_a_proxy_that_refuses_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with TunnelProxy("127.0.0.1:1", answer=b"HTTP/1.1 403 Forbidden") as proxy:
        monkeypatch.setenv("http_proxy", f"http://{proxy.address}")
        with MseGradClient(ELSEWHERE, options=ONCE) as client, pytest.raises(Unavailable) as caught:
            client.compute(*operands((10,)))
    assert f"through the proxy {proxy.address} (http_proxy)" in caught.value.message
    assert "403" in caught.value.message


@pytest.mark.parametrize(
    ("entry", "address", "is_left_out"),
    [
        ("*", "npu.example:1", True),
        ("npu.example", "npu.example:1", True),
        ("NPU.example", "npu.EXAMPLE:1", True),
        (".example", "npu.example:1", True),
        ("*.example", "npu.example:1", True),
        ("example", "npu.example:1", True),
        ("ample", "npu.example:1", False),
        ("other, npu.example ,", "npu.example:1", True),
        ("npu.example:1", "npu.example:1", True),
        ("npu.example:2", "npu.example:1", False),
        ("", "npu.example:1", False),
        (",", "npu.example:1", False),
        (".", "npu.example:1", False),
        ("10.0.0.0/8", "10.1.2.3:1", True),
        ("10.0.0.0/8", "11.1.2.3:1", False),
        ("10.1.2.3", "10.1.2.3:1", True),
        ("2001:db8::/32", "[2001:db8::5]:1", True),
        ("[2001:db8::5]", "[2001:db8::5]:1", True),
    ],
)
def test_hosts_that_the_environment_excludes_from_the_proxy(
    monkeypatch: pytest.MonkeyPatch, entry: str, address: str, is_left_out: bool
) -> None:
    monkeypatch.setenv("http_proxy", "http://proxy.example:3128/")
    monkeypatch.setenv("no_proxy", entry)
    found = proxy_of(address)
    assert (found is None) == is_left_out
    assert found is None or str(found) == "the proxy proxy.example:3128 (http_proxy)"


def test_the_first_variable_with_a_value_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    assert proxy_of(ELSEWHERE) is None
    for variable in reversed(VARIABLES):
        monkeypatch.setenv(variable, f"http://{variable}:1")
        assert proxy_of(ELSEWHERE) == Proxy(f"{variable}:1", variable)
    monkeypatch.setenv("grpc_proxy", "")
    assert proxy_of(ELSEWHERE) == Proxy("https_proxy:1", "https_proxy")


@pytest.mark.parametrize("url", ["proxy:3128", "socks5://proxy:1080", "https://proxy:3128", "http://", "http://[::1"])
def test_a_value_that_means_no_proxy_to_grpc_is_none(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("http_proxy", url)
    assert proxy_of(ELSEWHERE) is None


@pytest.mark.parametrize(
    "address",
    [
        "unix:/run/a.sock",
        "127.0.0.1:1",
        "127.9.9.9:1",
        "[::1]:1",
        "localhost:1",
        "LOCALHOST:1",
        OWN_NAME,
        OWN_NAME.upper(),
    ],
)
def test_nothing_is_between_two_processes_of_one_host(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setenv("http_proxy", NOBODY)
    assert proxy_of(address) is None
