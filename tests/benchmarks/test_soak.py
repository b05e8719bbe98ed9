from __future__ import annotations

import os
from collections import Counter

import pytest

from benchmarks.soak import ENDS, MIB, TRANSPORTS, Report, growth_bytes, judge, soak
from support.resident import held


def test_growth_is_that_of_the_least_memory_after_the_first_fifth() -> None:
    assert growth_bytes([9, 9, 5, 7, 6, 8, 7, 9, 8, 9]) == 3
    assert growth_bytes([1, 2, 3]) == 0


@pytest.mark.parametrize(("hung", "is_broken"), [(1, False), (3, False), (4, True)])
def test_one_forked_child_in_a_thousand_may_hang(hung: int, is_broken: bool) -> None:
    now = held(os.getpid())
    report = Report(calls=Counter({"direct, forked": 1500, "unary, forked": 500}), hung_forks=hung)
    judge(report, None, (now, now))
    assert report.broken == [f"{hung} of 2000 forked children hung"] * is_broken


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_thousands_of_calls_with_every_end_are_right_and_leave_little() -> None:
    report = soak(seconds=60.0)
    print(report)
    assert len(report.calls) == len(TRANSPORTS) * len(ENDS) - 1  # gRPC's own channels do not outlive a fork
    # In a minute malloc has not settled; `make soak` measures for longer, and its bound is 1 MiB.
    assert growth_bytes(report.server_bytes) < 8 * MIB
    assert growth_bytes(report.client_bytes) < 16 * MIB
    assert not [line for line in report.broken if "grew" not in line]
