"""The ladder on a device: which repair a fault gets, and what becomes of requests meanwhile."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from mse_grad_server.backends.ascend import recovery
from mse_grad_server.backends.ascend.blocks import DTYPES
from mse_grad_server.backends.ascend.recovery import Rung
from mse_grad_server.backends.ascend.start_errors import DeviceHung, DeviceLost
from mse_grad_server.errors import BackendError, DeviceUnavailable, ServerBusy, to_status
from mse_grad_server.exits import ExitCode
from support.ascend_backend import PATIENCE_S, Open, Opened
from support.ascend_runtime import AscendRuntime


@pytest.mark.parametrize(
    ("fault", "rungs"),
    [
        ("aclrtRecordEvent code=107000", [Rung.RETRY]),
        ("aclrtQueryEventStatus code=100000", [Rung.RETRY]),
        ("aclrtMemcpyAsync code=207001", [Rung.RETRY]),
        ("aclnnMseLossGrad code=507015", [Rung.REBUILD]),
        ("aclnnMseLossGrad code=507015 mode=async", [Rung.REBUILD]),
        ("aclnnMseLossGrad code=507035 mode=poison", [Rung.REBUILD]),
        ("aclnnMseLossGrad code=507053 mode=async", [Rung.RESET]),
        ("aclrtMemcpyAsync code=507901 mode=lose", [Rung.RESET]),
        ("aclrtMemcpyAsync mode=hang", [Rung.REBUILD]),
        ("aclnnMseLossGrad mode=hang", [Rung.REBUILD]),
        ("aclrtRecordEvent mode=hang", [Rung.REBUILD]),
    ],
)
def test_a_fault_gets_its_repair_and_the_request_its_answer(
    open_backend: Open, runtime: AscendRuntime, fault: str, rungs: list[Rung]
) -> None:
    with open_backend(block_timeout_s=0.2) as opened:
        opened.check(100)
        with runtime.faults(fault):
            opened.check(100)
        opened.check(100)
        assert opened.witness.rungs == rungs
        assert opened.witness.is_available
        assert opened.witness.failures
        print(f"{fault}: {rungs[0].name} took {1000 * opened.witness.repair_seconds[0]:.1f} ms")


def test_a_block_that_is_slow_is_no_fault(open_backend: Open, runtime: AscendRuntime) -> None:
    with open_backend(block_timeout_s=5.0) as opened:
        opened.check(100)
        with runtime.options(kernel_us=300_000, pace=1):
            opened.check(100)
        assert opened.witness.rungs == []


def test_faults_without_a_block_in_between_climb_to_the_end(open_backend: Open, runtime: AscendRuntime) -> None:
    with open_backend() as opened:
        with runtime.faults("aclrtMemcpyAsync code=107000 times=0"), pytest.raises(DeviceUnavailable):
            opened.check(100)
        assert opened.witness.was_lost.wait(PATIENCE_S)
        loss = opened.witness.loss
        assert type(loss) is DeviceLost
        assert loss.exit_code == ExitCode.DEVICE_LOST
        assert opened.witness.climbs == [Rung.RETRY, Rung.REBUILD, Rung.RESET, Rung.END]
        assert "aclrtMemcpyAsync returned 107000" in str(loss)
        with pytest.raises(DeviceUnavailable):
            opened.check(100)


def test_a_device_that_no_reset_brings_back_is_lost(open_backend: Open, runtime: AscendRuntime) -> None:
    with open_backend() as opened:
        with runtime.faults("aclnnMseLossGrad code=507899 mode=dead"), pytest.raises(DeviceUnavailable):
            opened.check(100)
        assert opened.witness.was_lost.wait(PATIENCE_S)


def test_a_device_that_computes_wrong_after_a_repair_is_repaired_again(
    open_backend: Open, runtime: AscendRuntime
) -> None:
    with open_backend() as opened:
        opened.check(100)
        with runtime.faults("aclrtRecordEvent code=507015 after=2; aclnnMseLossGrad mode=zero after=1"):
            opened.check(100)
        assert opened.witness.rungs == [Rung.RESET]
        assert opened.witness.climbs == [Rung.REBUILD, Rung.RESET]
        assert "differ from the formula" in str(opened.witness.failures[1])


def test_a_device_that_keeps_computing_wrong_is_lost(open_backend: Open, runtime: AscendRuntime) -> None:
    with open_backend() as opened:
        zeros = "aclnnMseLossGrad mode=zero after=1 times=0"
        with runtime.faults(f"aclrtRecordEvent code=507015 after=2; {zeros}"), pytest.raises(DeviceUnavailable):
            opened.check(100)
        assert opened.witness.was_lost.wait(PATIENCE_S)


def test_repairs_that_repeat_open_the_circuit_and_a_verified_gradient_closes_it(
    open_backend: Open, runtime: AscendRuntime
) -> None:
    with open_backend() as opened:
        for _ in range(2):
            with runtime.faults("aclnnMseLossGrad code=507015"):
                opened.check(100)
        # After the rest the device is checked once more, and the first call of that check returns when the `with` ends.
        with runtime.faults(f"aclnnMseLossGrad code=507015; aclrtMemset mode=hang after={len(DTYPES)}"):
            with pytest.raises(DeviceUnavailable) as refused:
                opened.check(100)
            assert 1.0 in opened.witness.pauses
            assert not opened.witness.is_available
            assert refused.value.retry_after_s == 1.0
            with pytest.raises(DeviceUnavailable, match="rests"):
                opened.check(100)
        opened.wait_until_available()
        opened.check(100)
        assert opened.witness.rungs == [Rung.REBUILD] * 3


def test_closing_ends_the_rest_of_an_open_circuit(
    open_backend: Open, runtime: AscendRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recovery, "_FIRST_PAUSE_S", 3600.0)
    with open_backend() as opened:
        for _ in range(2):
            with runtime.faults("aclnnMseLossGrad code=507015"):
                opened.check(100)
        with runtime.faults("aclnnMseLossGrad code=507015"), pytest.raises(DeviceUnavailable, match="rests"):
            opened.check(100)
        opened.backend.close()
        assert opened.witness.pauses[-1] == 3600


def test_a_plan_that_the_operator_refuses_fails_its_request_and_no_other(
    open_backend: Open, runtime: AscendRuntime
) -> None:
    with open_backend() as opened:
        opened.check(100)
        with runtime.faults("aclnnMseLossGradGetWorkspaceSize code=561002 times=0"):
            for _ in range(3):
                with pytest.raises(BackendError, match="561002"):
                    opened.check(101)
                opened.check(100)
        opened.check(101)
        assert opened.witness.rungs == []


def test_without_memory_for_a_plan_executors_make_room(open_backend: Open, runtime: AscendRuntime) -> None:
    with open_backend() as opened:
        for elements in range(1, 20):
            opened.check(elements)
        with runtime.faults("aclnnMseLossGradGetWorkspaceSize code=207018"):
            opened.check(101)
        assert runtime.accounts().living["executors"] == 4
        assert opened.witness.rungs == []


def test_without_memory_at_all_the_request_may_come_again(open_backend: Open, runtime: AscendRuntime) -> None:
    with open_backend() as opened:
        opened.check(100)
        with runtime.faults("aclnnMseLossGradGetWorkspaceSize code=207018 times=0"), pytest.raises(ServerBusy):
            opened.check(101)
        opened.check(101)


def test_a_call_that_does_not_return_ends_the_wait_and_asks_for_another_process(
    open_backend: Open, runtime: AscendRuntime
) -> None:
    with open_backend(hang_s=0.3) as opened:
        opened.check(100)
        with runtime.faults("aclrtQueryEventStatus mode=hang"):
            with pytest.raises(DeviceUnavailable):
                opened.check(100)
            assert opened.witness.was_lost.wait(PATIENCE_S)
            assert type(opened.witness.loss) is DeviceHung
            assert opened.witness.loss.exit_code == ExitCode.DEVICE_HUNG
            with pytest.raises(DeviceUnavailable):
                opened.check(100)
            opened.backend.close()
        # The call returns at last, and the thread gives the device back: the fixture holds the accounts against that.


def test_what_the_caller_gets_names_a_time_to_come_again_and_nothing_from_inside(
    open_backend: Open, runtime: AscendRuntime
) -> None:
    with open_backend() as opened:
        with runtime.faults("aclrtMemcpyAsync code=107000 times=0"), pytest.raises(DeviceUnavailable) as raised:
            opened.check(100)
        status = str(to_status(raised.value, request_id="r-1"))
        assert "DEVICE_UNAVAILABLE" in status
        assert "RetryInfo" in status
        assert "aclrt" not in status
        assert opened.witness.was_lost.wait(PATIENCE_S)


def test_requests_of_many_callers_survive_fault_after_fault(open_backend: Open, runtime: AscendRuntime) -> None:
    stop = threading.Event()

    def caller(opened: Opened, number: int) -> int:
        right = 0
        while not stop.is_set():
            try:
                opened.check(2000 + number, seed=number)
                right += 1
            except DeviceUnavailable as error:
                stop.wait(min(error.retry_after_s or 0.0, 0.05))
        return right

    with open_backend() as opened, ThreadPoolExecutor(6) as threads:
        running = [threads.submit(caller, opened, number) for number in range(6)]
        for fault in ("aclrtMemcpyAsync code=107000", "aclnnMseLossGrad code=507015 mode=async") * 3:
            opened.witness.was_repaired.clear()
            with runtime.faults(f"{fault} after=20"):
                assert opened.witness.was_repaired.wait(PATIENCE_S)
        stop.set()
        assert all(done.result(timeout=PATIENCE_S) > 0 for done in running)
        assert opened.witness.loss is None
