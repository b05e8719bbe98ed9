from __future__ import annotations

import pytest

from benchmarks.overload import Load, offer
from support.server.server_process import running_server


@pytest.mark.slow
@pytest.mark.parametrize("shares_memory", [False, True], ids=["tcp", "shared"])
@pytest.mark.parametrize("rate_per_s", [0.0, 400.0], ids=["closed", "open"])
def test_no_call_fails_except_by_a_refusal(shares_memory: bool, rate_per_s: float) -> None:
    with running_server("--max-in-flight-bytes", "64MiB", metrics_listen="none") as server:
        outcome = offer(server.address, Load(32, 1.0, shares_memory, rate_per_s=rate_per_s))
    assert outcome.failed == []
    assert outcome.elements > 0
