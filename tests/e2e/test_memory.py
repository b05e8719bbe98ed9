"""Memory of a server: it depends on the window, not on the size of the tensor."""

from __future__ import annotations

import os

import numpy as np
import pytest

from benchmarks.big_stream import GROWTH_ALLOWED_BYTES, cost_of_gradient
from mse_grad_client import ClientOptions, MseGradClient
from support.resident import resident_bytes
from support.server.server_process import ServerProcess
from support.values import expected, operands

MIB, GIB = 2**20, 2**30


@pytest.mark.parametrize("backend", ["cpu", pytest.param("ascend", marks=pytest.mark.slow)])
def test_a_gradient_of_512_mib_costs_the_server_less_than_half_of_it(backend: str) -> None:
    cost = cost_of_gradient(512 * MIB, backend=backend)
    assert cost.wrong_elements == 0
    assert cost.growth_bytes <= GROWTH_ALLOWED_BYTES, f"grew by {cost.growth_bytes / MIB:.0f} MiB"


@pytest.mark.slow
@pytest.mark.parametrize("shared_memory", [False, True], ids=["over the wire", "shared memory"])
def test_memory_stays_flat_over_16_gib(server: ServerProcess, shared_memory: bool) -> None:
    given = operands((16 * MIB,))
    gradient_bytes = 4 * given[0].nbytes  # three operands to the server, one gradient back
    y = np.zeros_like(given[0])
    with MseGradClient(server.address, options=ClientOptions(shared_memory=shared_memory)) as client:
        for _ in range(3):
            client.compute(*given, out=y)
        held: dict[int, list[int]] = {server.process.pid: [], os.getpid(): []}
        for _ in range(16 * GIB // gradient_bytes):
            client.compute(*given, out=y)
            for pid, sizes in held.items():
                sizes.append(resident_bytes(pid))
    assert y.tobytes() == expected(*given).tobytes()
    for sizes in held.values():
        assert max(sizes) - min(sizes) <= 64 * MIB
