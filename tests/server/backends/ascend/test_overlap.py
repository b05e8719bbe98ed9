"""Copy-in, kernel and copy-out of consecutive blocks overlap."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from mse_grad.tensor import FLOAT32
from support.ascend_backend import PATIENCE_S, Open
from support.ascend_runtime import AscendRuntime

STAGE_US = 4000
BLOCK_BYTES = 1 << 13
BLOCK_ELEMENTS = BLOCK_BYTES // FLOAT32.itemsize_bytes


def test_a_long_tensor_takes_little_more_than_its_longest_stage(open_backend: Open, runtime: AscendRuntime) -> None:
    blocks = 60
    with (
        runtime.options(copy_in_us=STAGE_US, kernel_us=STAGE_US, copy_out_us=STAGE_US, pace=1),
        open_backend(slots=6, block_bytes=BLOCK_BYTES) as opened,
    ):
        opened.check(2 * BLOCK_ELEMENTS)
        runtime.restart_time()
        opened.check(blocks * BLOCK_ELEMENTS)
        accounts = runtime.accounts()
    longest_us = max(accounts.busy_us.values())
    assert longest_us == blocks * STAGE_US
    print(f"{blocks} blocks took {accounts.elapsed_us / longest_us:.3f} times their longest stage")
    assert accounts.elapsed_us <= 1.25 * longest_us


def test_requests_of_several_callers_overlap(open_backend: Open, runtime: AscendRuntime) -> None:
    callers, each = 5, 12
    with (
        runtime.options(copy_in_us=STAGE_US, kernel_us=STAGE_US, copy_out_us=STAGE_US, pace=1),
        open_backend(slots=6, block_bytes=BLOCK_BYTES) as opened,
        ThreadPoolExecutor(callers) as threads,
    ):
        opened.check(BLOCK_ELEMENTS)
        runtime.restart_time()

        def compute(seed: int) -> None:
            for _ in range(each):
                opened.check(BLOCK_ELEMENTS, seed=seed)

        for done in [threads.submit(compute, seed) for seed in range(callers)]:
            done.result(timeout=PATIENCE_S)
        accounts = runtime.accounts()
    print(f"took {accounts.elapsed_us / (callers * each * STAGE_US):.3f} times the longest stage")
    assert accounts.elapsed_us <= 1.25 * callers * each * STAGE_US


def test_a_single_request_waits_for_its_three_stages_and_no_more(open_backend: Open, runtime: AscendRuntime) -> None:
    with (
        runtime.options(copy_in_us=STAGE_US, kernel_us=STAGE_US, copy_out_us=STAGE_US, pace=1),
        open_backend(slots=6, block_bytes=BLOCK_BYTES) as opened,
    ):
        opened.check(BLOCK_ELEMENTS)
        runtime.restart_time()
        opened.check(BLOCK_ELEMENTS)
        assert runtime.accounts().elapsed_us == 3 * STAGE_US
