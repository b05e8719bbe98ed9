"""The end of a host with several workers, and the end of its workers."""

from __future__ import annotations

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import grpc
import psutil
import pytest

from support.server.backends import ascend_flags
from support.server.host_process import compute, info, metrics, pid_of, states, worker_events
from support.server.server_process import ServerProcess, running_server
from support.waiting import PATIENCE_S, wait_until

# The probability that all these connections miss one of two workers is below 1e-9.
CONNECTIONS = 32
HANGS_SOON = ("--device-timeout-s", "1", "--device-hang-s", "2")


def started(*arguments: str, environment: dict[str, str] | None = None) -> ServerProcess:
    """Returns a host that ends by itself or is ended by the test."""
    server = ServerProcess("--listen", "127.0.0.1:0", "--metrics-listen", "none", *arguments, environment=environment)
    server.start()
    return server


def compute_many(address: str, *, count: int = 1000, timeout_s: float = PATIENCE_S) -> None:
    for _ in range(count):
        compute(address, timeout_s=timeout_s)


def end_of(host: ServerProcess) -> int:
    """Waits for the end of the host and of its log, which the last worker closes; returns the exit code."""
    code = host.process.wait(PATIENCE_S)
    host.kill()
    return code


def test_a_device_that_hangs_is_noticed_even_if_no_request_waits_for_it() -> None:
    flags = (*ascend_flags(), "--devices", "0", *HANGS_SOON)
    variables = {"ASCEND_SIMULATOR_FAULTS": "aclrtQueryEventStatus mode=hang after=100"}
    with running_server(*flags, environment=variables) as host:

        def has_ended() -> bool:
            # A call may also take so long on a busy machine, before the device hangs: then it takes further calls.
            with pytest.raises(grpc.RpcError) as failure:
                compute_many(host.address, timeout_s=0.3)
            assert failure.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            with suppress(AssertionError):
                wait_until(lambda: worker_events(host, "worker_ended", "npu:0"), patience_s=PATIENCE_S / 4)
            return bool(worker_events(host, "worker_ended", "npu:0"))

        wait_until(has_ended)
        (ended,) = worker_events(host, "worker_ended", "npu:0")
        assert ended["reason"] == "device_hung"


@pytest.mark.slow
def test_a_device_under_repair_is_not_behind_the_common_port_until_it_is_well() -> None:
    fault = "aclnnMseLossGradPart code=507015 mode=async after=100; aclrtCreateStream us=5000000 after=3 times=1"
    variables = {"ASCEND_SIMULATOR_DEVICES": "2", "ASCEND_SIMULATOR_FAULTS": fault}
    flags = (*ascend_flags(), "--devices", "0-1", "--ready-when", "all")
    with running_server(*flags, environment=variables) as host, ThreadPoolExecutor(1) as thread:
        before = states(host.address)
        failing, other = (address for address, _, _ in before)
        both = {info(address).instance_id for address in (failing, other)}
        computing = thread.submit(compute_many, failing, count=200)
        wait_until(lambda: states(other)[0] == (failing, "npu:0", "recovering"))
        assert {info(host.address).instance_id for _ in range(CONNECTIONS)} == {info(other).instance_id}
        assert states(other)[0] == (failing, "npu:0", "recovering")  # all the while
        computing.result(PATIENCE_S)
        wait_until(lambda: states(other) == before)
        assert {info(host.address).instance_id for _ in range(CONNECTIONS)} == both
        assert not worker_events(host, "worker_ended", "npu:0")


def test_workers_end_with_their_supervisor() -> None:
    host = started("--workers", "2", "--ready-when", "all")
    host.wait_for_event("ready")
    workers = [psutil.Process(pid_of(host, worker)) for worker in ("cpu:0", "cpu:1")]
    host.kill()  # `end_of` waits for the end of the log, which the last worker closes
    _, alive = psutil.wait_procs(workers, timeout=PATIENCE_S)
    assert not alive
    for worker in ("cpu:0", "cpu:1"):
        assert worker_events(host, "supervisor_ended", worker)
        assert worker_events(host, "drained", worker)


def test_a_second_signal_ends_the_host_and_its_workers_with_code_6() -> None:
    host = started("--workers", "2", "--ready-when", "all")
    host.wait_for_event("ready")
    for worker in ("cpu:0", "cpu:1"):
        os.kill(pid_of(host, worker), signal.SIGSTOP)  # a stopped worker cannot drain
    host.process.send_signal(signal.SIGTERM)
    host.wait_for_event("draining")
    host.process.send_signal(signal.SIGTERM)
    assert end_of(host) == 6


@pytest.mark.slow
def test_a_worker_that_does_not_answer_is_replaced() -> None:
    with running_server("--workers", "2", "--ready-when", "all", "--worker-hang-s", "4") as host:
        before = states(host.address)
        pid = pid_of(host, "cpu:0")
        os.kill(pid, signal.SIGSTOP)
        wait_until(lambda: pid_of(host, "cpu:0") != pid)
        wait_until(lambda: states(before[1][0]) == before)
        assert 'mse_grad_worker_restarts_total{reason="silent",worker="cpu:0"} 1.0' in metrics(host)


def test_workers_that_cannot_start_end_the_host_with_their_code_and_say_what_to_do() -> None:
    host = started(*ascend_flags(), "--devices", "0,1", "--ascend-op-library", "/nowhere/libcust_opapi.so")
    assert end_of(host) == 11
    for worker in ("npu:0", "npu:1"):
        (failed,) = worker_events(host, "start_failed", worker)
        assert "custom_opp_" in failed["message"]
        (given_up,) = worker_events(host, "worker_given_up", worker)
        assert given_up["reason"] == "op_package"
        assert len(worker_events(host, "worker_started", worker)) == 1


def test_a_device_that_is_missing_is_given_up_and_the_others_serve() -> None:
    with running_server(*ascend_flags(), "--devices", "0,7", environment={"ASCEND_SIMULATOR_DEVICES": "1"}) as host:
        wait_until(lambda: worker_events(host, "worker_given_up", "npu:7"))
        assert not worker_events(host, "supervisor_ended", "npu:7")
        assert [(device, state) for _, device, state in states(host.address)] == [("npu:0", "ready"), ("npu:7", "gone")]
        compute(host.address)
        assert 'mse_grad_worker_state{state="gone",worker="npu:7"} 1.0' in metrics(host)


@pytest.mark.parametrize(
    ("fault", "limits", "reason"),
    [
        ("aclnnMseLossGradPart code=507899 mode=dead after=100", (), "device_lost"),
        pytest.param("aclrtQueryEventStatus mode=hang after=100", HANGS_SOON, "device_hung", marks=pytest.mark.slow),
    ],
)
def test_a_device_that_fails_restarts_its_worker_while_the_other_serves(
    fault: str, limits: tuple[str, ...], reason: str
) -> None:
    flags = (*ascend_flags(), "--devices", "0-1", "--ready-when", "all")
    variables = {"ASCEND_SIMULATOR_DEVICES": "2", "ASCEND_SIMULATOR_FAULTS": fault}
    with running_server(*flags, *limits, environment=variables) as host:
        before = states(host.address)
        assert [(device, state) for _, device, state in before] == [("npu:0", "ready"), ("npu:1", "ready")]
        failing, other = (address for address, _, _ in before)

        with pytest.raises(grpc.RpcError) as failure:
            compute_many(failing)
        assert failure.value.code() is grpc.StatusCode.UNAVAILABLE
        compute(other)
        wait_until(lambda: worker_events(host, "worker_ended", "npu:0"))
        (ended,) = worker_events(host, "worker_ended", "npu:0")
        assert ended["reason"] == reason
        wait_until(lambda: states(other) == before)
        compute(failing)
        assert not worker_events(host, "worker_ended", "npu:1")
        assert f'mse_grad_worker_restarts_total{{reason="{reason}",worker="npu:0"}} 1.0' in metrics(host)
