"""`mse-grad-server --workers 3`: one process that speaks for several."""

from __future__ import annotations

import os
import signal
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mse_grad_client import MseGradClient
from mse_grad_client.info import Endpoint
from support.operands import expected, operands
from support.server import ServerProcess, running_server

PATIENCE_S = 60.0
LOOK_S = 0.05
WORKERS = ("cpu:0", "cpu:1", "cpu:2")


@pytest.fixture(scope="module")
def host() -> Iterator[ServerProcess]:
    """A host that the tests of this module share; it must end with exit code 0."""
    with running_server("--workers", "3", "--ready-when", "all") as process:
        yield process


def until(condition: Callable[[], Any]) -> Any:
    """Returns what `condition` does, as soon as that is true."""
    give_up_s = time.monotonic() + PATIENCE_S
    while not (found := condition()):
        assert time.monotonic() < give_up_s, "it did not come true"
        time.sleep(LOOK_S)
    return found


def endpoints(address: str) -> tuple[Endpoint, ...]:
    with MseGradClient(address) as client:
        return client.server_info().endpoints


def compute(address: str) -> str:
    """Computes through `address` and returns which worker did."""
    given = operands((1000,))
    with MseGradClient(address) as client:
        assert client.compute(*given).tobytes() == expected(*given).tobytes()
        return client.server_info().instance_id


def worker_events(host: ServerProcess, name: str, worker: str) -> list[dict[str, Any]]:
    return [event for event in host.events if event["event"] == name and event.get("worker") == worker]


def pid_of(host: ServerProcess, worker: str) -> int:
    return int(worker_events(host, "worker_started", worker)[-1]["pid"])


def metrics(host: ServerProcess) -> str:
    with urllib.request.urlopen(f"http://{host.metrics_address}/metrics", timeout=30) as answer:
        return str(answer.read().decode())


def test_each_worker_has_an_endpoint_of_its_own_and_each_knows_all(host: ServerProcess) -> None:
    listed = endpoints(host.address)
    assert [(at.device, at.state) for at in listed] == [("cpu", "ready")] * 3
    assert len({at.address for at in listed} | {host.address}) == 4
    assert all(endpoints(at.address) == listed for at in listed)
    assert len({compute(at.address) for at in listed}) == 3


def test_a_killed_worker_is_replaced_at_the_same_address(host: ServerProcess) -> None:
    before = endpoints(host.address)
    pid = pid_of(host, "cpu:1")
    os.kill(pid, signal.SIGKILL)
    until(lambda: pid_of(host, "cpu:1") != pid)
    until(lambda: endpoints(before[0].address) == before)
    assert compute(before[1].address)
    assert 'mse_grad_worker_restarts_total{reason="signal",worker="cpu:1"} 1.0' in metrics(host)


def test_one_page_has_the_metrics_of_every_worker(host: ServerProcess) -> None:
    page = metrics(host)
    for worker in WORKERS:
        assert f'mse_grad_ready{{worker="{worker}"}} 1.0' in page
        assert f'mse_grad_worker_up{{worker="{worker}"}} 1.0' in page


def test_the_path_of_a_unix_socket_leads_to_a_worker_that_is_ready(tmp_path: Path) -> None:
    path = tmp_path / "mse-grad.sock"
    with running_server("--workers", "2", "--ready-when", "all", listen=f"unix:{path}") as host:
        assert {at.address for at in endpoints(host.address)} == {
            f"unix:{tmp_path}/cpu-0.sock",
            f"unix:{tmp_path}/cpu-1.sock",
        }
        first = compute(host.address)
        os.kill(pid_of(host, "cpu:0"), signal.SIGKILL)
        until(lambda: worker_events(host, "worker_ended", "cpu:0"))
        assert compute(host.address) != first
    assert list(tmp_path.iterdir()) == []
