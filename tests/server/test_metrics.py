from __future__ import annotations

import urllib.error
import urllib.request
from contextlib import closing

import pytest

from mse_grad_server.address import Address
from mse_grad_server.exits import ExitCode, ListenError
from mse_grad_server.metrics import Metrics, MetricsEndpoint
from support.in_process import Serving, chunk, header, serving


def requests(server: Serving, code: str, *, dtype: str = "float32", reduction: str = "mean") -> float:
    labels = {"method": "StreamGradients", "dtype": dtype, "reduction": reduction, "code": code}
    return server.metric("mse_grad_requests_total", **labels)


async def test_requests_of_a_stream_are_counted_one_by_one() -> None:
    async with serving() as server:
        stream = await server.stream()
        await stream.send([header(id, (2,)) for id in (1, 2)], [chunk(id, 0, [1.0, 2.0]) for id in (1, 2)])
        await stream.receive()
        await stream.send([header(3, (-2,)), header(4, (2,))], [chunk(4, 1, [1.0])])
        await stream.receive()
        assert requests(server, "OK") == 2
        assert requests(server, "INVALID_ARGUMENT", dtype="unknown", reduction="unknown") == 1
        assert requests(server, "INVALID_ARGUMENT") == 1
        assert server.metric("mse_grad_request_seconds_count", method="StreamGradients") == 4
        assert server.metric("mse_grad_elements_total") == 4
        assert server.metric("mse_grad_transferred_bytes_total", direction="in") == 2 * 3 * 8
        assert server.metric("mse_grad_transferred_bytes_total", direction="out") == 2 * 8


async def test_gauges_follow_what_is_open() -> None:
    async with serving() as server:
        assert server.metric("mse_grad_ready") == 1
        stream = await server.stream()
        assert server.metric("mse_grad_open_streams") == 1
        await stream.send([header(1, (2,)), header(2, (2,))], [chunk(1, 0, [1.0])])
        await stream.receive()
        assert server.metric("mse_grad_in_flight_requests") == 2
        assert server.metric("mse_grad_in_flight_bytes") == 48
        await stream.close()
        await server.until(lambda: server.metric("mse_grad_open_streams") == 0)
        server.assert_nothing_in_flight()


async def test_the_time_of_a_request_runs_from_its_header_to_its_last_gradient() -> None:
    async with serving() as server:
        stream = await server.stream()
        await stream.send([header(1, (2,))], [chunk(1, 0, [1.0])])
        await stream.receive()
        server.clock.advance(3)
        await stream.send((), [chunk(1, 1, [1.0])])
        await stream.receive()
        assert server.metric("mse_grad_request_seconds_sum", method="StreamGradients") == 3
        assert server.metric("mse_grad_request_seconds_bucket", method="StreamGradients", le="2.0") == 0
        assert server.metric("mse_grad_request_seconds_bucket", method="StreamGradients", le="5.0") == 1


async def test_the_build_says_what_computes() -> None:
    async with serving() as server:
        (line,) = [line for line in server.metrics_text().splitlines() if line.startswith("mse_grad_build_info{")]
        assert 'backend="cpu",device="fake",kernel_hash="00"' in line
        assert line.endswith("} 1.0")


async def test_every_name_says_what_it_counts_and_in_what() -> None:
    async with serving() as server:
        families = list(server.server.metrics.registry.collect())
        assert all(family.name.startswith("mse_grad_") and family.documentation for family in families)


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


def test_a_taken_port_is_an_error_that_names_it() -> None:
    with closing(opened(Metrics())) as first:
        taken = str(first.address)
        with pytest.raises(ListenError, match=f"{taken}.*--metrics-listen") as error:
            opened(Metrics(), address=taken)
    assert error.value.exit_code is ExitCode.LISTEN
