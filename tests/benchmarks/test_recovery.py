from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from benchmarks.recovery import ALLOWED_ENDS, CALLERS, REQUESTS_EACH, main, recover
from mse_grad_server.process.exits import ExitCode
from support.npu.runtime import AscendRuntime
from support.npu.simulator import require_simulator


@pytest.fixture
def runtime() -> Iterator[AscendRuntime]:
    found = AscendRuntime(require_simulator())
    with found.options(devices=2):
        yield found


@pytest.mark.parametrize(
    ("rule", "rungs"),
    [
        ("aclrtMemcpyAsync code=107000 after=5", {"retry": 1}),
        ("aclnnMseLossGradPart code=507015 mode=async after=5", {"rebuild": 1}),
        ("aclrtMemcpyAsync code=507053 mode=lose after=5", {"reset": 1}),
    ],
)
def test_a_fault_costs_no_request_of_a_whole_server(runtime: AscendRuntime, rule: str, rungs: dict[str, int]) -> None:
    recovery = asyncio.run(recover(runtime, rule))
    assert recovery.ends == {"right": CALLERS * REQUESTS_EACH}
    assert recovery.rungs == rungs
    assert recovery.exit_code is None
    assert recovery.away_s > 0


def test_a_fault_that_stays_ends_requests_with_a_reason_and_the_process_with_its_code(runtime: AscendRuntime) -> None:
    recovery = asyncio.run(recover(runtime, "aclnnMseLossGradPart code=507899 after=5 times=0"))
    assert sum(recovery.ends.values()) == CALLERS * REQUESTS_EACH
    assert set(recovery.ends) <= ALLOWED_ENDS
    assert recovery.ends["DEVICE_UNAVAILABLE"] > 0
    assert recovery.rungs == {"reset": 1, "end": 1}
    assert recovery.exit_code is ExitCode.DEVICE_LOST


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_code_of_each_class_at_every_call_is_recovered_from(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    assert "aclnnMseLossGradPart code=507015" in capsys.readouterr().out
