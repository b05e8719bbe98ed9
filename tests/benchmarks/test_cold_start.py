"""The benchmark itself works; what it measures is judged by who runs it."""

from __future__ import annotations

from benchmarks.cold_start import cost_of_start

MIB = 2**20


def test_a_start_of_two_workers_has_every_figure() -> None:
    cost = cost_of_start(0, 1)
    assert 0 < cost.first_s <= cost.all_s
    assert len(cost.worker_bytes) == 2
    # What a framework would bring along is not there.
    assert max(cost.worker_bytes) < 300 * MIB
    assert 0 < cost.supervisor_bytes < min(cost.worker_bytes)
    assert 0 < cost.sum_bytes < cost.supervisor_bytes + sum(cost.worker_bytes)
