"""The ladder on a device: the repair for each fault, and the outcome of requests meanwhile."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from mse_grad.tensor import FLOAT16, FLOAT32, Reduction
from mse_grad_server.backends.ascend.device.blocks import DTYPES
from mse_grad_server.backends.ascend.recovery import ladder as recovery
from mse_grad_server.backends.ascend.recovery.ladder import Rung
from mse_grad_server.backends.ascend.startup.errors import DeviceHung, DeviceLost
from mse_grad_server.backends.base import Gradient, GradientSpec
from mse_grad_server.errors import BackendError, DeviceUnavailable, ServerBusy, to_status
from mse_grad_server.process.exits import ExitCode
from support.npu.backend import Open, Opened
from support.npu.runtime import AscendRuntime
from support.waiting import PATIENCE_S, holds_at_some_pace


@pytest.mark.parametrize(
    ("fault", "rungs"),
    [
        ("aclrtRecordEvent code=107000", [Rung.RETRY]),
        ("aclrtQueryEventStatus code=100000", [Rung.RETRY]),
        ("aclrtMemcpyAsync code=207001", [Rung.RETRY]),
        ("aclnnMseLossGradPart code=507015", [Rung.REBUILD]),
        ("aclnnMseLossGradPart code=507015 mode=async", [Rung.REBUILD]),
        ("aclnnMseLossGradPart code=507035 mode=poison", [Rung.REBUILD]),
        ("aclnnMseLossGradPart code=507053 mode=async", [Rung.RESET]),
        ("aclrtMemcpyAsync code=507901 mode=lose", [Rung.RESET]),
        ("aclrtMemcpyAsync mode=hang", [Rung.REBUILD]),
        ("aclnnMseLossGradPart mode=hang", [Rung.REBUILD]),
        ("aclrtRecordEvent mode=hang", [Rung.REBUILD]),
    ],
)
def test_a_fault_gets_its_repair_and_the_request_its_answer(
    open_backend: Open, runtime: AscendRuntime, fault: str, rungs: list[Rung]
) -> None:
    def gets_them(pace: int) -> bool:
        with open_backend(block_timeout_s=0.2 * pace) as opened:
            opened.check(100)
            with runtime.faults(fault):
                opened.check(100)
            opened.check(100)
            assert opened.witness.is_available
            assert opened.witness.failures
            print(f"{fault}: {rungs[0].name} took {1000 * opened.witness.repair_seconds[0]:.1f} ms")
            return opened.witness.rungs == rungs

    # Blocks that hang are told from others by their time alone, and a busy machine makes others slow too.
    assert holds_at_some_pace(gets_them) if "hang" in fault else gets_them(100)


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


def test_a_device_that_computes_wrong_after_a_repair_is_repaired_again(
    open_backend: Open, runtime: AscendRuntime
) -> None:
    with open_backend() as opened:
        opened.check(100)
        with runtime.faults("aclrtRecordEvent code=507015; aclnnMseLossGradPart mode=zero after=1"):
            opened.check(100)
        assert opened.witness.rungs == [Rung.RESET]
        assert opened.witness.climbs == [Rung.REBUILD, Rung.RESET]
        assert "differ from the formula" in str(opened.witness.failures[1])


@pytest.mark.parametrize("elements", [1, 100, 3000, 30_000])
@pytest.mark.parametrize(
    "fault",
    [
        "aclnnMseLossGrad* mode=zero",
        "aclnnMseLossGrad* mode=skip",
        "aclnnMseLossGrad* mode=half",
        "aclnnMseLossGrad* mode=last",
        "aclrtMemcpyAsync mode=skip",  # the operands do not arrive
        "aclrtMemcpyAsync mode=skip after=1",  # the gradient does not arrive
        "aclrtMemcpyAsync mode=skip times=2",  # neither of both arrives
        "aclrtMemcpyAsync mode=half",  # the first of the operands arrive
        "aclrtMemcpyAsync mode=half after=1",
        "aclrtMemcpyAsync mode=last after=1",
        "aclrtMemcpyAsync mode=zero after=1",
    ],
)
def test_a_device_that_does_nothing_or_half_is_found_and_its_answer_withheld(
    open_backend: Open, runtime: AscendRuntime, fault: str, elements: int
) -> None:
    with open_backend(slots=3) as opened:
        for seed in range(6):  # every slot then holds an older gradient
            opened.check(elements, seed=seed)
        with runtime.faults(fault):
            opened.check(elements, seed=7)
        assert opened.witness.rungs == [Rung.RESET]
        assert "the device did not compute a block" in str(opened.witness.failures[0])
        opened.check(elements, seed=8)


@pytest.mark.parametrize("mode", ["zero", "skip", "half", "last"])
@pytest.mark.parametrize("call", ["aclnnMseLossGrad*", "aclrtMemcpyAsync"])
def test_it_is_found_if_the_gradient_is_so_small_that_float16_holds_subnormal_numbers(
    open_backend: Open, runtime: AscendRuntime, call: str, mode: str
) -> None:
    kind: dict[str, Any] = {"dtype": FLOAT16, "numel": 300_000}
    with open_backend(slots=3) as opened:
        for seed in range(6):
            opened.check(3000, seed=seed, **kind)
        with runtime.faults(f"{call} mode={mode}"):
            opened.check(3000, seed=7, **kind)
        assert opened.witness.rungs == [Rung.RESET]


@pytest.mark.parametrize("overflow", ["inf_nan", "saturation"])
def test_gradients_that_are_zero_infinite_or_nan_do_not_look_like_a_dead_device(
    open_backend: Open, runtime: AscendRuntime, overflow: str
) -> None:
    spec = GradientSpec(FLOAT32, Reduction.SUM, 64, False)
    ones = np.ones(64, np.float32)
    with runtime.options(overflow=overflow), open_backend() as opened:
        for predict in (ones, ones * np.inf, ones * np.nan, ones * np.float32(3e38)):
            opened.backend.compute(Gradient(spec, predict, ones, ones, np.empty_like(ones)))
        assert opened.witness.climbs == []


@pytest.mark.parametrize(
    "faults",
    [
        "aclnnMseLossGradPart code=507899 mode=dead",
        "aclnnMseLossGrad* mode=zero times=0",
        "aclnnMseLossGrad* mode=skip times=0",
        "aclrtRecordEvent code=507015; aclnnMseLossGradPart mode=zero after=1 times=0",
    ],
    ids=["reset has no effect", "zeros from now on", "no work from now on", "zeros after each repair"],
)
def test_a_device_that_no_repair_brings_back_is_lost(open_backend: Open, runtime: AscendRuntime, faults: str) -> None:
    with open_backend() as opened:
        opened.check(100)
        with runtime.faults(faults), pytest.raises(DeviceUnavailable):
            opened.check(100)
        assert opened.witness.was_lost.wait(PATIENCE_S)


def test_repairs_that_repeat_open_the_circuit_and_a_verified_gradient_closes_it(
    open_backend: Open, runtime: AscendRuntime
) -> None:
    with open_backend() as opened:
        for _ in range(2):
            with runtime.faults("aclnnMseLossGradPart code=507015"):
                opened.check(100)
        # After the pause the device is checked again, and the first call of that check returns when the `with` ends.
        with runtime.faults(f"aclnnMseLossGradPart code=507015; aclrtMemset mode=hang after={len(DTYPES)}"):
            with pytest.raises(DeviceUnavailable) as refused:
                opened.check(100)
            assert 1.0 in opened.witness.pauses
            assert not opened.witness.is_available
            assert refused.value.retry_after_s == 1.0
            with pytest.raises(DeviceUnavailable, match="is paused"):
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
            with runtime.faults("aclnnMseLossGradPart code=507015"):
                opened.check(100)
        with runtime.faults("aclnnMseLossGradPart code=507015"), pytest.raises(DeviceUnavailable, match="is paused"):
            opened.check(100)
        opened.backend.close()
        assert opened.witness.pauses[-1] == 3600


def test_a_plan_that_the_operator_refuses_fails_its_request_and_no_other(
    open_backend: Open, runtime: AscendRuntime
) -> None:
    with open_backend() as opened:
        opened.check(100)
        with runtime.faults("aclnnMseLossGradPartGetWorkspaceSize code=561002 times=0"):
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
        with runtime.faults("aclnnMseLossGradPartGetWorkspaceSize code=207018"):
            opened.check(101)
        assert runtime.accounts().living["executors"] == 4
        assert opened.witness.rungs == []


def test_without_memory_at_all_the_request_may_be_retried(open_backend: Open, runtime: AscendRuntime) -> None:
    with open_backend() as opened:
        opened.check(100)
        with runtime.faults("aclnnMseLossGradPartGetWorkspaceSize code=207018 times=0"), pytest.raises(ServerBusy):
            opened.check(101)
        opened.check(101)


def test_a_call_that_does_not_return_ends_the_wait_and_asks_for_another_process(
    open_backend: Open, runtime: AscendRuntime
) -> None:
    with open_backend(hang_s=2.0) as opened:
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
        # When the call returns in the end, the thread closes the device: the fixture checks the accounts.


def test_the_callers_error_has_a_retry_delay_and_no_internals(open_backend: Open, runtime: AscendRuntime) -> None:
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
        for fault in ("aclrtMemcpyAsync code=107000", "aclnnMseLossGradPart code=507015 mode=async") * 3:
            opened.witness.was_repaired.clear()
            with runtime.faults(f"{fault} after=20"):
                assert opened.witness.was_repaired.wait(PATIENCE_S)
        stop.set()
        assert all(done.result(timeout=PATIENCE_S) > 0 for done in running)
        assert opened.witness.loss is None
