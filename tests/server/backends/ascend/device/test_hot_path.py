"""Cost of a request on a warm device: it allocates nothing and plans nothing."""

from __future__ import annotations

import asyncio
import itertools
from concurrent.futures import ThreadPoolExecutor

import pytest

from mse_grad.tensor import BFLOAT16, FLOAT16, FLOAT32, Reduction
from mse_grad_client import MseGradClient
from support.npu.backend import Open, Opened
from support.npu.runtime import Accounts, AscendRuntime
from support.npu.serving import serving
from support.values import expected, operands
from support.waiting import PATIENCE_S

SHAPES = 50
REQUESTS = 10_000
COLD_CALLS = (
    "aclrtMalloc",
    "aclrtMallocHost",
    "aclrtFree",
    "aclrtFreeHost",
    "aclrtCreateStream",
    "aclrtCreateEventExWithFlag",
    "aclCreateTensor",
    "aclnnMseLossGradPartGetWorkspaceSize",
    "aclSetInputTensorAddr",
    "aclSetOutputTensorAddr",
)


KINDS = itertools.cycle(
    [
        (FLOAT32, Reduction.MEAN, 1),
        (FLOAT16, Reduction.SUM, 1),
        (BFLOAT16, Reduction.NONE, 1),
        (FLOAT32, Reduction.MEAN, 10),
    ]
)


def test_ten_thousand_requests_of_fifty_shapes_allocate_and_plan_nothing(
    open_backend: Open, runtime: AscendRuntime
) -> None:
    requests = list(zip(range(1, 13 * SHAPES, 13), KINDS, strict=False))

    def compute(opened: Opened, number: int, times: int) -> None:
        elements, (dtype, reduction, parts) = requests[number]
        for _ in range(times):
            opened.check(elements, dtype=dtype, reduction=reduction, numel=parts * elements)

    with open_backend(most_kinds=2 * SHAPES) as opened, ThreadPoolExecutor(4) as threads:
        for number in range(SHAPES):
            compute(opened, number, 1)
        before = runtime.accounts()
        running = [threads.submit(compute, opened, number, REQUESTS // SHAPES) for number in range(SHAPES)]
        for done in running:
            done.result(timeout=6 * PATIENCE_S)
        assert_only_launches(before, runtime.accounts())
    assert opened.witness.kinds == SHAPES


def assert_only_launches(before: Accounts, after: Accounts) -> None:
    counts = {name: after.calls.get(name, 0) - before.calls.get(name, 0) for name in after.calls}
    assert {name: counts.get(name, 0) for name in COLD_CALLS} == dict.fromkeys(COLD_CALLS, 0)
    assert counts["aclnnMseLossGradPart"] == REQUESTS
    assert counts.get("aclnnMseLossGrad", 0) == 0
    assert after.living == before.living


@pytest.mark.slow
async def test_the_whole_server_allocates_and_plans_nothing_either_and_frees_everything(runtime: AscendRuntime) -> None:
    shapes = [(size,) for size in range(1, 13 * SHAPES, 13)]

    def compute(client: MseGradClient, shape: tuple[int, ...], times: int) -> None:
        given = operands(shape)
        bits = expected(*given).tobytes()
        for _ in range(times):
            assert client.compute(*given).tobytes() == bits

    def load(address: str, times: int) -> None:
        with MseGradClient(address) as client, ThreadPoolExecutor(4) as threads:
            for done in [threads.submit(compute, client, shape, times) for shape in shapes]:
                done.result(timeout=6 * PATIENCE_S)

    closed = runtime.accounts()
    async with serving(runtime, device_executors=2 * SHAPES) as server:
        await asyncio.to_thread(load, str(server.server.address), 1)
        before = runtime.accounts()
        await asyncio.to_thread(load, str(server.server.address), REQUESTS // SHAPES)
        assert_only_launches(before, runtime.accounts())
    assert runtime.accounts().living == closed.living


@pytest.mark.parametrize(
    ("elements", "calls"),
    [
        (1, {"aclrtMemcpyAsync": 2, "aclnnMseLossGradPart": 1, "aclrtRecordEvent": 1}),
        (4096, {"aclrtMemcpyAsync": 2, "aclnnMseLossGradPart": 1, "aclrtRecordEvent": 1}),
        (4097, {"aclrtMemcpyAsync": 2, "aclnnMseLossGradPart": 1, "aclrtRecordEvent": 3, "aclrtStreamWaitEvent": 2}),
    ],
)
def test_a_small_gradient_takes_four_calls_to_queue_and_a_larger_one_eight(
    open_backend: Open, runtime: AscendRuntime, elements: int, calls: dict[str, int]
) -> None:
    with open_backend(timing_every=1000) as opened:
        opened.check(elements)
        before = runtime.accounts().calls
        opened.check(elements)
        after = runtime.accounts().calls
    counts = {name: after[name] - before.get(name, 0) for name in after}
    # The number of queries depends on how long a block takes, so they are not counted.
    assert counts.pop("aclrtQueryEventStatus") >= 1
    assert {name: count for name, count in counts.items() if count} == calls


def test_executors_that_are_used_least_recently_make_room(open_backend: Open, runtime: AscendRuntime) -> None:
    with open_backend(slots=3, most_kinds=8) as opened:
        for elements in range(1, 41):
            opened.check(elements)
        assert runtime.accounts().living["executors"] <= 8 * 3
        plans = runtime.calls("aclnnMseLossGradPartGetWorkspaceSize")
        for elements in range(40, 33, -1):
            opened.check(elements)
        assert runtime.calls("aclnnMseLossGradPartGetWorkspaceSize") == plans
        opened.check(1)
        assert runtime.calls("aclnnMseLossGradPartGetWorkspaceSize") == plans + 3


def test_a_tensor_of_many_blocks_needs_two_plans(open_backend: Open, runtime: AscendRuntime) -> None:
    with open_backend(slots=3, block_bytes=1 << 13) as opened:
        before = runtime.calls("aclnnMseLossGradPartGetWorkspaceSize")
        opened.check(20_001)
        assert runtime.calls("aclnnMseLossGradPartGetWorkspaceSize") - before == 2 * 3
