from __future__ import annotations

import pytest

from benchmarks.restarts import CALLERS, restart_under_load


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("backend", ["cpu", "ascend"])
def test_no_promise_of_a_drain_is_broken_under_load(backend: str) -> None:
    report = restart_under_load(8, host_every=4, backend=backend)
    assert report.broken == []
    assert report.restarts == 8
    assert report.streams > 0
    assert len(report.answered) == CALLERS
