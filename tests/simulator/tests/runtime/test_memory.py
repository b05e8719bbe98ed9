"""Device and pinned memory: limits, ends, and what a device would not forgive."""

from __future__ import annotations

import ctypes

from support.npu.runtime import AscendRuntime
from support.npu.runtime_bench import IN, SIZE_BYTES, Bench, fails
from support.waiting import holds_at_some_pace


def test_memory_is_freed_once_and_by_its_own_function(bench: Bench) -> None:
    device, host = bench.acl.malloc(64), bench.acl.malloc_host(64)
    for function, address in (("aclrtFreeHost", device), ("aclrtFree", host)):
        with fails(107000):
            bench.acl.call(function, address)
    bench.acl.call("aclrtFree", device)
    bench.acl.call("aclrtFreeHost", host)
    with fails(107000):
        bench.acl.call("aclrtFree", device)


def test_a_copy_past_the_end_of_device_memory_is_refused(bench: Bench) -> None:
    with fails(107000):
        bench.acl.copy_async(bench.device + 1, bench.host, SIZE_BYTES, IN, bench.stream())


def test_memory_that_a_queued_task_uses_is_not_to_be_freed(bench: Bench, runtime: AscendRuntime) -> None:
    stream, memory = bench.stream(), bench.acl.malloc(SIZE_BYTES)
    with runtime.faults("aclrtMemcpyAsync mode=hang"):
        bench.acl.copy_async(memory, bench.host, SIZE_BYTES, IN, stream)
        bench.acl.call("aclrtFree", memory)
        assert "freed while 1 queued tasks use them" in runtime.accounts().violations[-1]


def test_device_and_pinned_memory_have_their_limits(bench: Bench, runtime: AscendRuntime) -> None:
    with runtime.options(memory_bytes=2 * SIZE_BYTES, pinned_bytes=2 * SIZE_BYTES):
        assert bench.acl.memory_info() == (SIZE_BYTES, 2 * SIZE_BYTES)
        for allocate in (bench.acl.malloc, bench.acl.malloc_host):
            with fails(207001):
                allocate(SIZE_BYTES + 1)
        bench.acl.call("aclrtFree", bench.acl.malloc(SIZE_BYTES))


def test_memory_of_the_caller_can_be_pinned_and_unpinned(bench: Bench, runtime: AscendRuntime) -> None:
    stream, memory, mapped = bench.stream(), (ctypes.c_uint8 * SIZE_BYTES)(7), ctypes.c_void_p()
    register, unregister = bench.library.aclrtHostRegister, bench.library.aclrtHostUnregister
    assert register(memory, ctypes.c_uint64(SIZE_BYTES), 0, ctypes.byref(mapped)) == 0
    assert register(memory, ctypes.c_uint64(SIZE_BYTES), 0, ctypes.byref(mapped)) == 107000

    def is_queued(pace: int) -> bool:
        with runtime.options(copy_in_us=50_000, pace=pace):
            bench.acl.copy_async(bench.device, ctypes.addressof(memory), SIZE_BYTES, IN, stream)
            returned_first = not bench.acl.is_empty(stream, 1)
            bench.wait(stream)
        return returned_first

    assert holds_at_some_pace(is_queued)
    assert unregister(memory) == 0
    assert unregister(memory) == 107000
