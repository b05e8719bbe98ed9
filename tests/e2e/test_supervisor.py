"""`mse-grad-server --workers 3`: one process that supervises several workers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from support.server.host_process import compute, info, metrics, pid_of, states, worker_events
from support.server.server_process import ServerProcess, running_server
from support.waiting import PATIENCE_S, wait_until

WORKERS = ("cpu:0", "cpu:1", "cpu:2")
# The probability that all these connections miss one of three workers is below 1e-9.
CONNECTIONS = 56


@pytest.fixture(scope="module")
def host() -> Iterator[ServerProcess]:
    """A host that the tests of this module share; it must end with exit code 0."""
    with running_server("--workers", "3", "--ready-when", "all") as process:
        yield process


def instances(address: str) -> set[str]:
    """Returns the instances that answer connections to `address`."""
    return {info(address).instance_id for _ in range(CONNECTIONS)}


def test_each_worker_has_an_endpoint_of_its_own_and_each_knows_all(host: ServerProcess) -> None:
    listed = states(host.address)
    assert [(device, state) for _, device, state in listed] == [("cpu", "ready")] * 3
    addresses = [address for address, _, _ in listed]
    assert len({*addresses, host.address}) == 4
    assert all(states(address) == listed for address in addresses)
    assert len({info(address).instance_id for address in addresses}) == 3


def test_the_common_port_leads_a_plain_client_to_each_worker(host: ServerProcess) -> None:
    own = {info(address).instance_id for address, _, _ in states(host.address)}
    assert instances(host.address) == own
    compute(host.address)


def test_health_is_served_on_the_common_port(host: ServerProcess) -> None:
    with grpc.insecure_channel(host.address) as channel:
        answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=PATIENCE_S)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


def test_one_page_has_the_metrics_of_every_worker_and_about_them(host: ServerProcess) -> None:
    for address, _, _ in states(host.address):
        compute(address)
    page = metrics(host)
    for worker in WORKERS:
        labels = f'code="OK",dtype="float32",method="ComputeGradient",reduction="mean",worker="{worker}"'
        assert f"mse_grad_requests_total{{{labels}}}" in page
        assert f'mse_grad_worker_up{{worker="{worker}"}} 1.0' in page
        assert f'mse_grad_worker_state{{state="ready",worker="{worker}"}} 1.0' in page
    assert page.count("# TYPE mse_grad_requests_total counter") == 1
    with urllib.request.urlopen(f"http://{host.metrics_address}/ready", timeout=PATIENCE_S) as answer:
        assert answer.status == 200


def test_every_line_of_a_worker_names_it(host: ServerProcess) -> None:
    assert [json.loads(line) for line in host.log.splitlines()] == host.events
    for worker in WORKERS:
        (ready,) = worker_events(host, "ready", worker)[:1]
        assert ready["listen"] in {address for address, _, _ in states(host.address)}


def test_a_second_host_does_not_share_the_port(host: ServerProcess) -> None:
    command = [sys.executable, "-m", "mse_grad_server", "--workers", "1", "--listen", host.address]
    ended = subprocess.run(
        [*command, "--metrics-listen", "none"], capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    assert ended.returncode == 9
    assert host.address in ended.stderr


def test_a_killed_worker_is_replaced_at_the_same_address_and_no_request_to_the_others_fails(
    host: ServerProcess,
) -> None:
    before = states(host.address)
    addresses = [address for address, _, _ in before]
    others = {info(addresses[0]).instance_id, info(addresses[2]).instance_id}
    pid = pid_of(host, "cpu:1")
    is_over = threading.Event()

    def keep_computing(address: str) -> None:
        while not is_over.is_set():
            compute(address)

    with ThreadPoolExecutor(2) as threads:
        computing = [threads.submit(keep_computing, addresses[index]) for index in (0, 2)]
        try:
            os.kill(pid, signal.SIGKILL)
            wait_until(lambda: states(addresses[0])[1] == (addresses[1], "cpu", "starting"))
            meanwhile = instances(host.address)
            wait_until(lambda: pid_of(host, "cpu:1") != pid)
            wait_until(lambda: states(addresses[0]) == before)
        finally:
            is_over.set()
        for one in computing:
            one.result(PATIENCE_S)
    compute(addresses[1])
    successor = info(addresses[1]).instance_id
    # On a busy machine the successor may be ready before the last of these connections.
    assert others <= meanwhile <= others | {successor}
    assert successor in instances(host.address)
    assert 'mse_grad_worker_restarts_total{reason="signal",worker="cpu:1"} 1.0' in metrics(host)


def test_a_worker_that_is_asked_to_end_drains_and_is_replaced_at_once(host: ServerProcess) -> None:
    pid = pid_of(host, "cpu:2")
    os.kill(pid, signal.SIGTERM)
    # a process group often gets a signal twice: from its supervisor and from the process that signals the group
    os.kill(pid, signal.SIGTERM)
    wait_until(lambda: pid_of(host, "cpu:2") != pid)
    (ended,) = worker_events(host, "worker_ended", "cpu:2")
    assert (ended["exit_code"], ended["restart_in_s"]) == (0, 0)
    wait_until(lambda: [state for _, _, state in states(host.address)] == ["ready"] * 3)


def test_the_path_of_a_unix_socket_leads_to_a_worker_that_is_ready(tmp_path: Path) -> None:
    path = tmp_path / "mse-grad.sock"
    with running_server("--workers", "2", "--ready-when", "all", listen=f"unix:{path}") as host:
        addresses = [address for address, _, _ in states(host.address)]
        assert addresses == [f"unix:{tmp_path}/cpu-0.sock", f"unix:{tmp_path}/cpu-1.sock"]
        assert info(host.address).instance_id == info(addresses[0]).instance_id
        os.kill(pid_of(host, "cpu:0"), signal.SIGKILL)
        wait_until(lambda: worker_events(host, "worker_ended", "cpu:0"))
        assert info(host.address).instance_id == info(addresses[1]).instance_id
    assert list(tmp_path.iterdir()) == []
