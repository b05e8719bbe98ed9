"""Outcome of requests, and state of the device, when a call of ACL fails under load."""

from __future__ import annotations

import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

from mse_grad_server.errors import DeviceUnavailable, ServerError
from mse_grad_server.process.exits import ExitCode
from support.npu.backend import Open, Opened
from support.npu.faults import CALLS, CODES, ONE_CODE_A_CLASS, rules
from support.npu.runtime import AscendRuntime
from support.waiting import PATIENCE_S

CALLERS = 5
REQUESTS_EACH = 10
DEADLINE_S = 10.0


def load(opened: Opened) -> Counter[str]:
    """Returns how requests of several callers ended: "right", or the name of a typed error."""

    def caller(number: int) -> Counter[str]:
        ends: Counter[str] = Counter()
        for turn in range(REQUESTS_EACH):
            began_s = time.monotonic()
            try:
                # Every other gradient is a part of a larger tensor.
                opened.check(3000 + number, numel=9000 if turn % 2 else None, seed=number, timeout_s=DEADLINE_S)
                ends["right"] += 1
            except ServerError as error:
                ends[type(error).__name__] += 1
            assert time.monotonic() - began_s < 6 * DEADLINE_S  # a wide bound, for a busy machine
        return ends

    with ThreadPoolExecutor(CALLERS) as threads:
        running = [threads.submit(caller, number) for number in range(CALLERS)]
        return sum((ends.result() for ends in running), Counter())


def once(open_backend: Open, runtime: AscendRuntime, rule: str) -> None:
    with open_backend() as opened:
        with runtime.faults(rule):
            ends = load(opened)
        assert ends == {"right": CALLERS * REQUESTS_EACH}, rule
        assert opened.witness.loss is None, rule
        opened.check(5000)


def for_ever(open_backend: Open, runtime: AscendRuntime, rule: str) -> None:
    """Checks that every request ends while calls fail, and that the backend, or a new one, answers afterwards."""
    with open_backend(block_timeout_s=0.5) as opened:
        with runtime.faults(rule):
            ends = load(opened)
        assert sum(ends.values()) == CALLERS * REQUESTS_EACH
        assert set(ends) <= {"right", "DeviceUnavailable", "BackendError", "ServerBusy", "DeadlineExceeded"}, rule
        if answers_again(opened):
            return
        assert opened.witness.loss is not None
        assert opened.witness.loss.exit_code == ExitCode.DEVICE_LOST
    with open_backend() as successor:
        successor.check(5000)


def answers_again(opened: Opened) -> bool:
    """Returns whether the backend answers; it does not if its device is lost."""
    deadline_s = time.monotonic() + PATIENCE_S
    while not opened.witness.was_lost.is_set():
        try:
            opened.check(5000)
        except DeviceUnavailable:
            assert time.monotonic() < deadline_s
            continue
        return True
    return False


@pytest.mark.parametrize("code", ONE_CODE_A_CLASS)
@pytest.mark.parametrize("call", CALLS)
def test_a_call_that_fails_once_costs_no_request(
    open_backend: Open, runtime: AscendRuntime, call: str, code: int
) -> None:
    for rule in rules(call, code, "after=9"):
        once(open_backend, runtime, rule)


@pytest.mark.parametrize("code", ONE_CODE_A_CLASS)
@pytest.mark.parametrize("call", CALLS)
def test_a_call_that_fails_for_ever_ends_every_request_in_time(
    open_backend: Open, runtime: AscendRuntime, call: str, code: int
) -> None:
    for rule in rules(call, code, "after=9 times=0"):
        for_ever(open_backend, runtime, rule)


@pytest.mark.slow
@pytest.mark.parametrize("code", [code for code in CODES if code not in ONE_CODE_A_CLASS])
def test_every_other_code_at_every_call_ends_every_request_in_time(
    open_backend: Open, runtime: AscendRuntime, code: int
) -> None:
    for call in CALLS:
        for rule in rules(call, code, "after=9"):
            once(open_backend, runtime, rule)
            for_ever(open_backend, runtime, f"{rule} times=0")
