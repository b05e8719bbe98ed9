"""Streams run on their own, in order; events join them."""

from __future__ import annotations

import ctypes
import time

from support.npu.runtime import AscendRuntime
from support.npu.runtime_bench import IN, OUT, PATIENCE_MS, SIZE_BYTES, Bench
from support.waiting import holds_at_some_pace


def test_a_copy_of_pinned_memory_is_queued_and_a_wait_waits_for_it(bench: Bench, runtime: AscendRuntime) -> None:
    stream = bench.stream()

    def returns_before_it(pace: int) -> bool:
        with runtime.options(copy_in_us=100_000, pace=pace):
            bench.write(7)
            began_s = time.monotonic()
            bench.copy(IN, stream)
            returned_first = not bench.acl.is_empty(stream, 1)
            bench.wait(stream)
            assert time.monotonic() - began_s >= 0.1 * pace
        return returned_first

    assert holds_at_some_pace(returns_before_it)


def test_a_copy_of_other_memory_returns_after_it(bench: Bench, runtime: AscendRuntime) -> None:
    stream = bench.stream()
    source = (ctypes.c_uint8 * SIZE_BYTES)()
    with runtime.options(copy_in_us=50_000, pace=1):
        began_s = time.monotonic()
        bench.acl.copy_async(bench.device, ctypes.addressof(source), SIZE_BYTES, IN, stream)
        assert time.monotonic() - began_s >= 0.05
    assert bench.acl.is_empty(stream, 1)


def test_tasks_of_a_stream_run_in_order(bench: Bench) -> None:
    stream = bench.stream()
    bench.write(3)
    bench.copy(IN, stream)
    bench.wait(stream)
    bench.write(0)
    bench.copy(OUT, stream)
    bench.wait(stream)
    assert bench.read() == {3}


def test_an_event_holds_another_stream_up(bench: Bench, runtime: AscendRuntime) -> None:
    first, second = bench.stream(), bench.stream()
    there, back = bench.event(), bench.event()

    def waits(pace: int) -> bool:
        with runtime.options(copy_in_us=50_000, copy_out_us=0, pace=pace):
            bench.write(9)
            bench.copy(IN, first)
            bench.acl.record(there, first)
            bench.acl.make_wait(second, there)
            bench.copy(OUT, second)
            bench.acl.record(back, second)
            waited = not bench.acl.has_happened(back) and not bench.acl.wait_for(back, 1)
            assert bench.acl.wait_for(back, PATIENCE_MS)
            assert bench.acl.has_happened(there)
        return waited

    assert holds_at_some_pace(waits)


def test_an_event_that_was_never_recorded_has_happened(bench: Bench) -> None:
    assert bench.acl.has_happened(bench.event())


def test_a_wait_is_for_the_record_before_it_and_not_for_a_later_one(bench: Bench, runtime: AscendRuntime) -> None:
    first, second = bench.stream(), bench.stream()
    event, done = bench.event(), bench.event()
    bench.acl.record(event, first)
    bench.acl.make_wait(second, event)
    with runtime.faults("aclrtMemcpyAsync mode=hang"):
        bench.copy(IN, first)
        bench.acl.record(event, first)
        bench.acl.record(done, second)
        assert bench.acl.wait_for(done, PATIENCE_MS)
        assert not bench.acl.has_happened(event)
