from __future__ import annotations

import pytest

from mse_grad_server.process.exits import ExitCode
from mse_grad_server.workers.restart_policy import RestartPolicy

NEVER_READY = (
    ExitCode.RUNTIME_LIBRARY,
    ExitCode.OP_PACKAGE,
    ExitCode.NO_DEVICE,
    ExitCode.PERMISSION,
    ExitCode.SETTINGS,
)


def test_each_failure_in_a_row_doubles_the_pause_up_to_a_minute() -> None:
    policy = RestartPolicy(limit=9)
    pauses = [policy.ended(ExitCode.FAILED, now_s) for now_s in range(9)]
    assert pauses == [0.5, 1, 2, 4, 8, 16, 32, 60, 60]


def test_one_failure_more_than_the_limit_is_the_last() -> None:
    policy = RestartPolicy(limit=2)
    assert policy.ended(-9, 0) is not None
    assert policy.ended(ExitCode.DEVICE_LOST, 0) is not None
    assert policy.ended(-11, 0) is None


def test_after_a_minute_in_service_the_count_of_failures_begins_anew() -> None:
    policy = RestartPolicy(limit=2)
    policy.ended(-9, 0)
    assert policy.ended(-9, 0) == 1
    policy.ready(10)
    assert policy.ended(-9, 70) == 0.5


def test_less_than_a_minute_in_service_is_no_recovery() -> None:
    policy = RestartPolicy(limit=3)
    policy.ended(-9, 0)
    policy.ready(10)
    policy.ready(60)  # ready again, after a repair: the minute counts from the first time
    assert policy.ended(-9, 69) == 1


def test_the_minute_counts_for_one_process() -> None:
    policy = RestartPolicy(limit=9)
    policy.ready(0)
    assert policy.ended(-9, 1) == 0.5
    assert policy.ended(-9, 100) == 1


@pytest.mark.parametrize("code", NEVER_READY, ids=lambda code: code.name)
def test_an_exit_code_that_another_start_would_repeat_is_final(code: ExitCode) -> None:
    assert RestartPolicy(limit=9).ended(code, 0) is None


@pytest.mark.parametrize("code", NEVER_READY, ids=lambda code: code.name)
def test_the_same_code_after_the_worker_was_ready_is_a_failure_like_others(code: ExitCode) -> None:
    policy = RestartPolicy(limit=9)
    policy.ready(0)
    policy.ended(ExitCode.DEVICE_LOST, 1)
    assert policy.ended(code, 2) == 1


@pytest.mark.parametrize(
    "code", [ExitCode.DRIVER, ExitCode.BACKEND, ExitCode.DEVICE_LOST, ExitCode.DEVICE_HUNG, -9], ids=str
)
def test_after_a_failure_that_may_pass_the_worker_is_started_again(code: int) -> None:
    assert RestartPolicy(limit=1).ended(code, 0) == 0.5


def test_a_worker_that_was_told_to_end_is_replaced_at_once_and_does_not_count() -> None:
    policy = RestartPolicy(limit=0)
    for now_s in range(5):
        policy.ready(now_s)
        assert policy.ended(ExitCode.OK, now_s) == 0


def test_an_orderly_end_before_it_was_ready_counts() -> None:
    assert RestartPolicy(limit=0).ended(ExitCode.OK, 0) is None
