"""A short run of the cold-start benchmark; a person judges its figures, not this test."""

from __future__ import annotations

import pytest

from benchmarks.cold_start import cost_of_start

MIB = 2**20


@pytest.mark.timeout(600)  # first in a whole run, so the simulator is often built here
def test_a_start_of_two_workers_has_every_figure() -> None:
    cost = cost_of_start(0, 1)
    assert 0 < cost.first_s <= cost.all_s
    assert len(cost.worker_bytes) == 2
    # Too little for a framework: none was imported.
    assert max(cost.worker_bytes) < 300 * MIB
    assert 0 < cost.supervisor_bytes < min(cost.worker_bytes)
    assert 0 < cost.sum_bytes < cost.supervisor_bytes + sum(cost.worker_bytes)
