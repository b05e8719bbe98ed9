from __future__ import annotations

import urllib.error
import urllib.request
from contextlib import closing

import pytest

from mse_grad_server.address import Address
from mse_grad_server.exits import ExitCode, ListenError
from mse_grad_server.metrics import Metrics
from mse_grad_server.metrics_endpoint import MetricsEndpoint


def get(address: Address, path: str) -> tuple[int, bytes]:
    try:
        with urllib.request.urlopen(f"http://{address}{path}", timeout=20) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def opened(metrics: Metrics, *, address: str = "127.0.0.1:0", is_ready: bool = True) -> MetricsEndpoint:
    endpoint = MetricsEndpoint(metrics.registry, Address.parse(address), is_ready=lambda: is_ready)
    endpoint.open()
    return endpoint


def test_metrics_are_served_over_http_until_closed() -> None:
    metrics = Metrics()
    with closing(opened(metrics)) as endpoint:
        assert endpoint.address.port != 0
        metrics.elements.inc(5)
        status, page = get(endpoint.address, "/metrics")
        assert status == 200
        assert b"mse_grad_elements_total 5.0" in page
    with pytest.raises(OSError, match="refused"):
        get(endpoint.address, "/metrics")
    endpoint.close()


@pytest.mark.parametrize(("is_ready", "answer"), [(True, (200, b"ready\n")), (False, (503, b"not ready\n"))])
def test_a_probe_hears_whether_the_server_is_ready(is_ready: bool, answer: tuple[int, bytes]) -> None:
    with closing(opened(Metrics(), is_ready=is_ready)) as endpoint:
        assert get(endpoint.address, "/ready") == answer


@pytest.mark.parametrize("path", ["/ready/", "/readyz", "/healthz", "/metrics/x"])
def test_another_path_is_not_there_and_says_what_is(path: str) -> None:
    with closing(opened(Metrics())) as endpoint:
        assert get(endpoint.address, path) == (404, b"there are /metrics and /ready\n")


def test_a_taken_port_is_an_error_that_names_it() -> None:
    with closing(opened(Metrics())) as first:
        taken = str(first.address)
        with pytest.raises(ListenError, match=f"{taken}.*--metrics-listen") as error:
            opened(Metrics(), address=taken)
    assert error.value.exit_code is ExitCode.LISTEN
