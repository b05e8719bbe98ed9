"""The numerical bar on the real kernel: every chip and schedule gives one result, the CPU backend's, and it passes."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator

import numpy as np
import pytest

from mse_grad.tensor import Array, DType
from mse_grad_cli.conformance import Compute, Dout, run_bar, same_bits
from mse_grad_server.backends.cpu import CpuBackend
from support.npu.operator_plan import TilingData
from support.npu.simulator import CHIPS, DTYPES, SCHEDULES, Simulator
from support.numerics.compute import backend_compute

LARGE = 2**21  # elements; every core of every chip then has work
LEAST_SHARE_BYTES = 8192  # of a stream, for each further core


@pytest.fixture(scope="module")
def cpu() -> Iterator[Compute]:
    backend = CpuBackend()
    backend.open()
    yield backend_compute(backend)
    backend.close()


def agreed(simulator: Simulator, cpu: Compute) -> Compute:
    """Returns the operator on every chip under every schedule; it checks that all agree with the CPU backend."""

    def compute(predict: Array, label: Array, dout: Dout, reduction: str) -> Array:
        expected = cpu(predict, label, dout, reduction)
        result = expected
        for chip in CHIPS:
            for schedule in SCHEDULES:
                with simulator.settings(chip=chip, threads="2", **schedule):
                    result = simulator.compute(predict, label, dout, reduction)
                same = same_bits(result.reshape(-1), expected.reshape(-1))
                assert same.all(), f"{chip}, {schedule}: element {int(np.argmin(same))} differs from the CPU backend's"
        return result

    return compute


def lengths(simulator: Simulator, dtype: DType) -> list[int]:
    """Returns the element counts at which a plan changes: a tile, two of one core, a second core, all of them."""
    counts = set()
    for chip in CHIPS:
        with simulator.settings(chip=chip):
            blocks, data = simulator.plan([LARGE], dtype, tiling_bytes=ctypes.sizeof(TilingData))
        tile = TilingData.from_buffer_copy(data).tile_elements
        least_share = LEAST_SHARE_BYTES // dtype.itemsize_bytes
        counts |= {tile, 2 * tile, 2 * least_share, blocks * least_share, blocks * tile}
    return sorted(counts)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("quick", [True, pytest.param(False, marks=pytest.mark.slow)], ids=["quick", "full"])
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.name)
def test_the_bar_holds_and_every_chip_and_schedule_gives_the_bits_of_the_cpu(
    simulator: Simulator, cpu: Compute, dtype: DType, quick: bool
) -> None:
    counts = lengths(simulator, dtype)
    report = run_bar(agreed(simulator, cpu), dtypes=[dtype], lengths=counts, threads=1, quick=quick)
    assert report.passed, "\n".join(map(str, report.failures))
    assert report.cases > 200
