"""Virtual time: stages that overlap, and waits of the host."""

from __future__ import annotations

from support.npu.runtime import AscendRuntime
from support.npu.runtime_bench import IN, OUT, Bench, forget, planned


def test_three_stages_that_overlap_take_as_long_as_one(bench: Bench, runtime: AscendRuntime) -> None:
    blocks = 20
    streams = [bench.stream() for _ in range(3)]
    executor, tensors = planned(bench, 200)
    with runtime.options(copy_in_us=1000, kernel_us=1000, copy_out_us=1000):
        runtime.restart_time()
        for _ in range(blocks):
            bench.copy(IN, streams[0])
            there, done = bench.event(), bench.event()
            bench.acl.record(there, streams[0])
            bench.acl.make_wait(streams[1], there)
            bench.opapi.launch(executor, streams[1], workspace=0, workspace_bytes=0)
            bench.acl.record(done, streams[1])
            bench.acl.make_wait(streams[2], done)
            bench.copy(OUT, streams[2])
        bench.wait(streams[2])
        accounts = runtime.accounts()
    assert accounts.busy_us == {"copy_in": 20_000, "kernel": 20_000, "copy_out": 20_000, "other": 0}
    assert accounts.elapsed_us == (blocks + 2) * 1000
    forget(bench, executor, tensors)


def test_a_wait_of_the_host_comes_before_its_next_tasks(bench: Bench, runtime: AscendRuntime) -> None:
    streams = [bench.stream(), bench.stream()]
    with runtime.options(copy_in_us=1000, copy_out_us=1000):
        runtime.restart_time()
        for _ in range(10):
            bench.copy(IN, streams[0])
            bench.wait(streams[0])
            bench.copy(OUT, streams[1])
            bench.wait(streams[1])
        assert runtime.accounts().elapsed_us == 20_000
