"""What a server holds in memory depends on the window, not on the tensor."""

from __future__ import annotations

import pytest

from benchmarks.big_stream import GROWTH_ALLOWED_BYTES, cost_of_gradient

MIB = 2**20


@pytest.mark.parametrize("backend", ["cpu", pytest.param("ascend", marks=pytest.mark.slow)])
def test_a_gradient_of_512_mib_costs_the_server_less_than_half_of_it(backend: str) -> None:
    cost = cost_of_gradient(512 * MIB, backend=backend)
    assert cost.wrong_elements == 0
    assert cost.growth_bytes <= GROWTH_ALLOWED_BYTES, f"grew by {cost.growth_bytes / MIB:.0f} MiB"
