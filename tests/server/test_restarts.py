from __future__ import annotations

import pytest

from mse_grad_server.exits import ExitCode
from mse_grad_server.restarts import Restarts

NEVER_READY = (
    ExitCode.RUNTIME_LIBRARY,
    ExitCode.OP_PACKAGE,
    ExitCode.NO_DEVICE,
    ExitCode.PERMISSION,
    ExitCode.SETTINGS,
)


def test_each_failure_in_a_row_doubles_the_pause_up_to_a_minute() -> None:
    restarts = Restarts(limit=9)
    pauses = [restarts.ended(ExitCode.FAILED, now_s) for now_s in range(9)]
    assert pauses == [0.5, 1, 2, 4, 8, 16, 32, 60, 60]


def test_one_failure_more_than_the_limit_is_the_last() -> None:
    restarts = Restarts(limit=2)
    assert restarts.ended(-9, 0) is not None
    assert restarts.ended(ExitCode.DEVICE_LOST, 0) is not None
    assert restarts.ended(-11, 0) is None


def test_after_a_minute_in_service_the_row_begins_anew() -> None:
    restarts = Restarts(limit=2)
    restarts.ended(-9, 0)
    assert restarts.ended(-9, 0) == 1
    restarts.ready(10)
    assert restarts.ended(-9, 70) == 0.5


def test_less_than_a_minute_in_service_is_no_recovery() -> None:
    restarts = Restarts(limit=3)
    restarts.ended(-9, 0)
    restarts.ready(10)
    restarts.ready(60)  # again, after a repair: it counts from the first time
    assert restarts.ended(-9, 69) == 1


def test_the_minute_is_one_process_s_own() -> None:
    restarts = Restarts(limit=9)
    restarts.ready(0)
    assert restarts.ended(-9, 1) == 0.5
    assert restarts.ended(-9, 100) == 1


@pytest.mark.parametrize("code", NEVER_READY, ids=lambda code: code.name)
def test_what_another_start_would_only_say_again_is_final(code: ExitCode) -> None:
    assert Restarts(limit=9).ended(code, 0) is None


@pytest.mark.parametrize("code", NEVER_READY, ids=lambda code: code.name)
def test_the_same_after_it_has_served_is_a_failure_like_others(code: ExitCode) -> None:
    restarts = Restarts(limit=9)
    restarts.ready(0)
    restarts.ended(ExitCode.DEVICE_LOST, 1)
    assert restarts.ended(code, 2) == 1


@pytest.mark.parametrize(
    "code", [ExitCode.DRIVER, ExitCode.BACKEND, ExitCode.DEVICE_LOST, ExitCode.DEVICE_HUNG, -9], ids=str
)
def test_what_may_pass_is_tried_again(code: int) -> None:
    assert Restarts(limit=1).ended(code, 0) == 0.5


def test_a_worker_that_was_told_to_end_is_replaced_at_once_and_does_not_count() -> None:
    restarts = Restarts(limit=0)
    for now_s in range(5):
        restarts.ready(now_s)
        assert restarts.ended(ExitCode.OK, now_s) == 0


def test_an_orderly_end_before_it_was_ready_counts() -> None:
    assert Restarts(limit=0).ended(ExitCode.OK, 0) is None
