"""How long a block was in each stage, by the clock of the device."""

from __future__ import annotations

import pytest

from mse_grad.tensor import FLOAT32
from support.ascend_backend import Open
from support.ascend_runtime import AscendRuntime

BLOCK_BYTES = 1 << 13
BLOCK_ELEMENTS = BLOCK_BYTES // FLOAT32.itemsize_bytes
STAGES_US = {"copy_in_us": 20_000, "kernel_us": 5_000, "copy_out_us": 10_000}


def test_each_stage_has_its_own_time_and_the_waits_between_them_count_as_queued(
    open_backend: Open, runtime: AscendRuntime
) -> None:
    blocks = 8
    with open_backend(slots=4, block_bytes=BLOCK_BYTES) as opened:
        opened.check(BLOCK_ELEMENTS)
        opened.witness.ways.clear()
        with runtime.options(**STAGES_US, pace=1):
            opened.check(blocks * BLOCK_ELEMENTS)
    ways = opened.witness.ways
    assert len(ways) == blocks
    for _, copy_in_s, kernel_s, copy_out_s in ways:
        # The copies to and from pinned memory, which the host makes, come on top.
        assert copy_in_s >= 0.02
        assert kernel_s == pytest.approx(0.005)
        assert copy_out_s >= 0.01
    # While its slot was filled at once, the last block waited behind others for the stream of copies.
    assert max(queue_s for queue_s, *_ in ways) >= 0.02


def test_it_can_be_left_out_with_its_events(open_backend: Open, runtime: AscendRuntime) -> None:
    records = []
    for timing in (True, False):
        with open_backend(block_bytes=BLOCK_BYTES, timing=timing) as opened:
            opened.check(BLOCK_ELEMENTS)
            before = runtime.calls("aclrtRecordEvent")
            opened.check(BLOCK_ELEMENTS)
            records.append(runtime.calls("aclrtRecordEvent") - before)
    assert records == [6, 3]


def test_without_the_clock_of_the_device_the_host_sees_one_stage(open_backend: Open, runtime: AscendRuntime) -> None:
    with runtime.faults("aclrtEventElapsedTime code=207000 times=0"), open_backend(block_bytes=BLOCK_BYTES) as opened:
        opened.check(BLOCK_ELEMENTS)
        opened.witness.ways.clear()
        with runtime.options(**STAGES_US, pace=1):
            opened.check(BLOCK_ELEMENTS)
        assert opened.witness.failures == []
    ((_, _, kernel_s, _),) = opened.witness.ways
    assert kernel_s >= sum(STAGES_US.values()) / 1e6
