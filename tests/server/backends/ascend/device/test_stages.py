"""Times of a block in each stage, by the clock of the device."""

from __future__ import annotations

import pytest

from mse_grad.tensor import FLOAT32
from mse_grad_server.backends.ascend.device.blocks import SMALL_BYTES
from support.npu.backend import Open
from support.npu.runtime import AscendRuntime

BLOCK_BYTES = 1 << 15
BLOCK_ELEMENTS = BLOCK_BYTES // FLOAT32.itemsize_bytes
SMALL_ELEMENTS = SMALL_BYTES // FLOAT32.itemsize_bytes
STAGES_US = {"copy_in_us": 20_000, "kernel_us": 5_000, "copy_out_us": 10_000}


@pytest.mark.parametrize("elements", [SMALL_ELEMENTS, BLOCK_ELEMENTS], ids=["one stream", "three streams"])
def test_each_stage_has_its_own_time_and_the_waits_between_them_count_as_queued(
    open_backend: Open, runtime: AscendRuntime, elements: int
) -> None:
    blocks = 8
    block_bytes = elements * FLOAT32.itemsize_bytes
    with open_backend(slots=4, block_bytes=block_bytes, timing_every=1) as opened:
        opened.check(elements)
        opened.witness.ways.clear()
        with runtime.options(**STAGES_US, pace=1):
            opened.check(blocks * elements)
    ways = opened.witness.ways
    assert len(ways) == blocks
    for _, copy_in_s, kernel_s, copy_out_s in ways:
        # The host's copies to and from pinned memory are added.
        assert copy_in_s >= 0.02
        assert kernel_s == pytest.approx(0.005)
        assert copy_out_s >= 0.01
    # Its slot was filled at once, but then the last block waited in its stream behind others.
    assert max(queue_s for queue_s, *_ in ways) >= 0.02


@pytest.mark.parametrize("elements", [SMALL_ELEMENTS, BLOCK_ELEMENTS], ids=["one stream", "three streams"])
@pytest.mark.parametrize(("every", "stamped"), [(0, 0), (1, 9), (4, 3)])
def test_one_block_in_timing_every_is_timed(
    open_backend: Open, runtime: AscendRuntime, elements: int, every: int, stamped: int
) -> None:
    with open_backend(block_bytes=BLOCK_BYTES, timing_every=every) as opened:
        opened.check(elements)
        opened.witness.ways.clear()
        before = runtime.calls("aclrtEventElapsedTime")
        for _ in range(9):
            opened.check(elements)
        # Three time differences for each timed block: copy-in, kernel, copy-out. Without them the host times each
        # block.
        assert runtime.calls("aclrtEventElapsedTime") - before == 3 * (stamped - (every == 4))
        assert len(opened.witness.ways) == (stamped - (every == 4) if every else 9)


@pytest.mark.parametrize("elements", [SMALL_ELEMENTS, BLOCK_ELEMENTS], ids=["one stream", "three streams"])
@pytest.mark.parametrize("code", [107006, 507899, 999999])
def test_a_failing_clock_costs_the_figures_and_repairs_nothing(
    open_backend: Open, runtime: AscendRuntime, elements: int, code: int
) -> None:
    with open_backend(block_bytes=BLOCK_BYTES, timing_every=1) as opened:
        opened.check(elements)
        opened.witness.ways.clear()
        with runtime.faults(f"aclrtEventElapsedTime code={code} times=0"):
            for _ in range(3):
                opened.check(elements)
        assert (opened.witness.ways, opened.witness.failures, opened.witness.climbs) == ([], [], [])
        opened.check(elements)
        assert len(opened.witness.ways) == 1


@pytest.mark.parametrize("elements", [SMALL_ELEMENTS, BLOCK_ELEMENTS], ids=["one stream", "three streams"])
def test_a_time_stamp_that_is_not_queued_costs_the_figures_and_repairs_nothing(
    open_backend: Open, runtime: AscendRuntime, elements: int
) -> None:
    with open_backend(block_bytes=BLOCK_BYTES, timing_every=1) as opened:
        opened.check(elements)
        opened.witness.ways.clear()
        with runtime.faults("aclrtRecordEvent code=107000"):  # the first record of a block marks the start of its copy
            opened.check(elements)
        assert (opened.witness.ways, opened.witness.failures, opened.witness.climbs) == ([], [], [])


def test_without_the_clock_of_the_device_the_host_sees_one_stage(open_backend: Open, runtime: AscendRuntime) -> None:
    with (
        runtime.faults("aclrtEventElapsedTime code=207000 times=0"),
        open_backend(block_bytes=BLOCK_BYTES, timing_every=1) as opened,
    ):
        opened.check(BLOCK_ELEMENTS)
        opened.witness.ways.clear()
        with runtime.options(**STAGES_US, pace=1):
            opened.check(BLOCK_ELEMENTS)
        assert opened.witness.failures == []
    ((_, _, kernel_s, _),) = opened.witness.ways
    assert kernel_s >= sum(STAGES_US.values()) / 1e6
