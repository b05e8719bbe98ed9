"""Copy-in, kernel and copy-out of consecutive blocks overlap."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from mse_grad.tensor import FLOAT32
from mse_grad_client import ClientOptions, MseGradClient
from mse_grad_server.backends.ascend.device.blocks import SMALL_BYTES
from support.npu.backend import Open
from support.npu.runtime import AscendRuntime
from support.npu.serving import serving
from support.values import expected, operands
from support.waiting import PATIENCE_S

STAGE_US = 4000
BLOCK_BYTES = 1 << 15
BLOCK_ELEMENTS = BLOCK_BYTES // FLOAT32.itemsize_bytes
MOST = 1.25
"""Limit, as a multiple of the longest stage; 3 would be one stage after the other."""
PACES = (1, 4, 16)
"""Real time per virtual time. At each of these, one stage after the other takes 3 times the longest."""


def times_longest_stage(runtime: AscendRuntime, compute: Callable[[], None], *, least: int, stage_us: int) -> float:
    """Returns the virtual time that `compute` took on the device, as a multiple of its longest stage.

    It must run `least` blocks or more. On a busy machine the device waits for the host, so a device that was too fast
    for its host runs again at a slower pace.
    """
    share = math.inf
    for pace in PACES:
        with runtime.options(copy_in_us=stage_us, kernel_us=stage_us, copy_out_us=stage_us, pace=pace):
            runtime.restart_time()
            compute()
            accounts = runtime.accounts()
        longest_us = max(accounts.busy_us.values())
        assert longest_us >= least * stage_us
        share = accounts.elapsed_us / longest_us
        print(f"{longest_us // stage_us} blocks took {share:.3f} times their longest stage at pace {pace}")
        if share <= MOST:
            break
    return share


@pytest.mark.parametrize("block_bytes", [SMALL_BYTES, BLOCK_BYTES], ids=["one stream a block", "three streams"])
def test_a_long_tensor_takes_little_more_than_its_longest_stage(
    open_backend: Open, runtime: AscendRuntime, block_bytes: int
) -> None:
    blocks = 60
    elements = block_bytes // FLOAT32.itemsize_bytes
    with open_backend(slots=6, block_bytes=block_bytes) as opened:
        opened.check(2 * elements)
        share = times_longest_stage(runtime, lambda: opened.check(blocks * elements), least=blocks, stage_us=STAGE_US)
    assert share <= MOST


def test_requests_of_several_callers_overlap(open_backend: Open, runtime: AscendRuntime) -> None:
    callers, each = 5, 12
    with open_backend(slots=6, block_bytes=BLOCK_BYTES) as opened, ThreadPoolExecutor(callers) as threads:
        opened.check(BLOCK_ELEMENTS)

        def call(seed: int) -> None:
            for _ in range(each):
                opened.check(BLOCK_ELEMENTS, seed=seed)

        def compute() -> None:
            for done in [threads.submit(call, seed) for seed in range(callers)]:
                done.result(timeout=PATIENCE_S)

        share = times_longest_stage(runtime, compute, least=callers * each, stage_us=STAGE_US)
    assert share <= MOST


def test_a_single_request_waits_for_its_three_stages_and_no_more(open_backend: Open, runtime: AscendRuntime) -> None:
    with open_backend(slots=6, block_bytes=BLOCK_BYTES) as opened:
        opened.check(BLOCK_ELEMENTS)
        share = times_longest_stage(runtime, lambda: opened.check(BLOCK_ELEMENTS), least=1, stage_us=STAGE_US)
    assert share == 3


def test_blocks_of_one_caller_that_waits_for_each_do_not_overlap(open_backend: Open, runtime: AscendRuntime) -> None:
    blocks = 5

    def compute() -> None:
        for _ in range(blocks):
            opened.check(BLOCK_ELEMENTS)

    with open_backend(slots=6, block_bytes=BLOCK_BYTES) as opened:
        opened.check(BLOCK_ELEMENTS)
        share = times_longest_stage(runtime, compute, least=blocks, stage_us=STAGE_US)
    assert share == 3


@pytest.mark.parametrize(
    ("settings", "chunks", "shared_memory", "stage_us"),
    [({}, 24, False, 20_000), ({"chunk_bytes": 1 << 16}, 200, False, STAGE_US), ({}, 24, True, 20_000)],
    ids=["chunks as the server wants them", "small chunks", "shared memory"],
)
async def test_a_long_stream_through_the_whole_server_takes_little_more_than_its_longest_stage(
    runtime: AscendRuntime, settings: dict[str, int], chunks: int, shared_memory: bool, stage_us: int
) -> None:
    async with serving(runtime, device_slots=6, **settings) as server:
        given = operands((chunks * server.settings.chunk_bytes // FLOAT32.itemsize_bytes,))
        bits = expected(*given).tobytes()
        options = ClientOptions(shared_memory=shared_memory)
        with MseGradClient(str(server.server.address), options=options) as client:

            def compute() -> None:
                assert client.compute(*given).tobytes() == bits

            await asyncio.to_thread(compute)
            share = await asyncio.to_thread(times_longest_stage, runtime, compute, least=chunks, stage_us=stage_us)
    assert share <= MOST
