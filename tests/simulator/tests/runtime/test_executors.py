"""Repeatable executors read the current data at their addresses."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest

from support.npu.runtime import AscendRuntime
from support.npu.runtime_bench import IN, OUT, SIZE_BYTES, Bench, forget, planned


def test_a_repeatable_executor_runs_on_what_its_addresses_hold(bench: Bench) -> None:
    stream = bench.stream()
    executor, tensors = planned(bench, 200)
    for value in (1.0, 2.5):
        np.ctypeslib.as_array((ctypes.c_float * 1024).from_address(bench.host))[:] = np.repeat(
            [value, 0.5, 2.0, np.nan], 256
        )
        bench.copy(IN, stream)
        bench.opapi.launch(executor, stream, workspace=0, workspace_bytes=0)
        bench.copy(OUT, stream)
        bench.wait(stream)
        y = np.ctypeslib.as_array((ctypes.c_float * 200).from_address(bench.host + 3072))
        np.testing.assert_array_equal(y, (value - 0.5) * 4)
    forget(bench, executor, tensors)


@pytest.mark.parametrize(("mode", "expected"), [("zero", 0x00), ("skip", 0xA5)])
def test_a_launch_can_write_zeros_or_nothing_and_say_nothing(
    bench: Bench, runtime: AscendRuntime, mode: str, expected: int
) -> None:
    stream = bench.stream()
    executor, tensors = planned(bench, 256)
    bench.acl.fill(bench.device, SIZE_BYTES, 0xA5)
    with runtime.faults(f"aclnnMseLossGradPart mode={mode}"):
        bench.opapi.launch(executor, stream, workspace=0, workspace_bytes=0)
        bench.copy(OUT, stream)
        bench.wait(stream)
    assert set(ctypes.string_at(bench.host + 3072, 1024)) == {expected}
    forget(bench, executor, tensors)


def test_an_executor_that_is_queued_is_not_to_be_changed(bench: Bench, runtime: AscendRuntime) -> None:
    stream = bench.stream()
    executor, tensors = planned(bench, 200)
    with runtime.faults("aclrtMemcpyAsync mode=hang"):
        bench.copy(IN, stream)
        bench.opapi.launch(executor, stream, workspace=0, workspace_bytes=0)
        bench.acl.call("aclSetOutputTensorAddr", executor, 0, tensors[3], bench.device)
        assert "aclSetOutputTensorAddr of an executor that is queued" in runtime.accounts().violations[-1]
        forget(bench, executor, tensors)
        assert "aclDestroyAclOpExecutor of an executor that is queued" in runtime.accounts().violations[-1]
