from __future__ import annotations

import pytest

from mse_grad_server.backends.ascend.acl.error_codes import Fault
from mse_grad_server.backends.ascend.recovery.ladder import Ladder, Rung


class Time:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.mark.parametrize(
    ("fault", "rung"),
    [
        (Fault.CALLER, Rung.RETRY),
        (Fault.MEMORY, Rung.RETRY),
        (Fault.UNKNOWN, Rung.RETRY),
        (Fault.TIMEOUT, Rung.REBUILD),
        (Fault.EXECUTION, Rung.REBUILD),
        (Fault.DEVICE, Rung.RESET),
    ],
)
def test_a_first_fault_gets_the_mildest_repair_that_can_help(fault: Fault, rung: Rung) -> None:
    assert Ladder(Time()).climb(fault) is rung


def test_every_fault_has_a_first_rung() -> None:
    assert all(Ladder(Time()).climb(fault) in Rung for fault in Fault)


def test_each_fault_climbs_higher_while_no_block_comes_back() -> None:
    ladder = Ladder(Time())
    rungs = [ladder.climb(Fault.CALLER) for _ in range(6)]
    assert rungs == [Rung.RETRY, Rung.REBUILD, Rung.RESET, Rung.END, Rung.END, Rung.END]


def test_a_worse_fault_skips_rungs() -> None:
    ladder = Ladder(Time())
    assert [ladder.climb(Fault.CALLER), ladder.climb(Fault.DEVICE)] == [Rung.RETRY, Rung.RESET]


def test_a_milder_fault_climbs_on_too() -> None:
    ladder = Ladder(Time())
    assert [ladder.climb(Fault.EXECUTION), ladder.climb(Fault.CALLER)] == [Rung.REBUILD, Rung.RESET]


def test_after_a_returned_block_the_ladder_begins_at_its_lowest_rung() -> None:
    ladder = Ladder(Time())
    ladder.climb(Fault.DEVICE)
    ladder.block_came_back()
    assert ladder.climb(Fault.CALLER) is Rung.RETRY


def test_the_circuit_opens_at_the_third_repair_in_a_minute_and_for_twice_as_long_each_time() -> None:
    ladder = Ladder(Time())
    assert [ladder.pause() for _ in range(9)] == [0, 0, 1, 2, 4, 8, 16, 30, 30]


def test_repairs_far_apart_do_not_open_the_circuit() -> None:
    time = Time()
    ladder = Ladder(time)
    pauses = []
    for _ in range(10):
        pauses.append(ladder.pause())
        time.now_s += 31
    assert pauses == [0] * 10


def test_after_a_quiet_minute_the_circuit_opens_for_the_first_time_again() -> None:
    time = Time()
    ladder = Ladder(time)
    for _ in range(5):
        ladder.pause()
    time.now_s += 61
    assert [ladder.pause() for _ in range(3)] == [0, 0, 1]
