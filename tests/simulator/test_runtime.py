"""The ACL runtime of the simulator: contexts, asynchronous streams, events, memory, faults, accounts, virtual time."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from mse_grad.tensor import Reduction
from mse_grad_server.backends.ascend.acl import Acl, CopyKind, DataType
from mse_grad_server.backends.ascend.faults import AclError
from mse_grad_server.backends.ascend.opapi import OpApi
from support.ascend_runtime import Accounts, AscendRuntime

DEVICE = 1
IN, OUT = CopyKind.HOST_TO_DEVICE, CopyKind.DEVICE_TO_HOST
SIZE_BYTES = 4096
PATIENCE_MS = 20_000


class Bench:
    """A context with memory on a device of the simulator, in the thread of the test."""

    def __init__(self, acl: Acl, runtime: AscendRuntime) -> None:
        self.acl = acl
        self.opapi = OpApi.load(runtime.op_library, acl)
        self.library = ctypes.CDLL(str(runtime.folder / "libascendcl.so"))
        self.context = acl.create_context(DEVICE)
        self.host = acl.malloc_host(SIZE_BYTES)
        self.device = acl.malloc(SIZE_BYTES)
        self.streams: list[int] = []
        self.events: list[int] = []

    def stream(self, *, stops: bool = False) -> int:
        self.streams.append(self.acl.create_stream())
        if stops:
            self.acl.stop_on_failure(self.streams[-1])
        return self.streams[-1]

    def event(self) -> int:
        self.events.append(self.acl.create_event())
        return self.events[-1]

    def write(self, value: int) -> None:
        ctypes.memset(self.host, value, SIZE_BYTES)

    def read(self) -> set[int]:
        return set(ctypes.string_at(self.host, SIZE_BYTES))

    def copy(self, kind: CopyKind, stream: int) -> None:
        ends = (self.device, self.host) if kind is IN else (self.host, self.device)
        self.acl.copy_async(*ends, SIZE_BYTES, kind, stream)

    def wait(self, stream: int) -> None:
        self.acl.synchronise(stream, PATIENCE_MS)

    def allocate(self) -> None:
        self.acl.call("aclrtFree", self.acl.malloc(64))

    def make_current(self) -> None:
        assert self.library.aclrtSetCurrentContext(ctypes.c_void_p(self.context)) == 0

    def close(self) -> None:
        for stream in self.streams:
            self.acl.call("aclrtDestroyStreamForce", stream)
        for event in self.events:
            self.acl.call("aclrtDestroyEvent", event)
        self.acl.call("aclrtFree", self.device)
        self.acl.call("aclrtFreeHost", self.host)
        self.acl.call("aclrtDestroyContext", self.context)


@pytest.fixture(scope="module")
def built(libraries: Path) -> AscendRuntime:
    return AscendRuntime(libraries)


@pytest.fixture
def runtime(built: AscendRuntime) -> Iterator[AscendRuntime]:
    before = built.accounts()
    with built.options(devices=2):
        yield built
        built.clear_faults()
    assert built.accounts().living == before.living


@pytest.fixture
def acl(runtime: AscendRuntime) -> Iterator[Acl]:
    acl = Acl.load(runtime.folder / "libascendcl.so", runtime.folder / "libnnopbase.so")
    acl.initialise()
    acl.call("aclrtSetDevice", DEVICE)
    yield acl
    acl.call("aclrtResetDevice", DEVICE)
    acl.finalise()


@pytest.fixture
def bench(acl: Acl, runtime: AscendRuntime) -> Iterator[Bench]:
    bench = Bench(acl, runtime)
    yield bench
    bench.close()


@contextmanager
def fails(code: int) -> Iterator[None]:
    with pytest.raises(AclError) as raised:
        yield
    assert raised.value.code == code
    assert raised.value.words


def code_of(call: Callable[[], None]) -> int:
    try:
        call()
    except AclError as error:
        return error.code
    return 0


# Contexts.


def test_a_thread_without_a_context_gets_107002_until_it_sets_one(bench: Bench) -> None:
    def ask() -> None:
        with fails(107002):
            bench.acl.create_stream()
        bench.make_current()
        bench.acl.call("aclrtDestroyStreamForce", bench.acl.create_stream())

    with ThreadPoolExecutor(1) as thread:
        thread.submit(ask).result()


def test_a_destroyed_context_is_nobodys_any_more(acl: Acl) -> None:
    acl.call("aclrtDestroyContext", acl.create_context(DEVICE))
    with fails(107002):
        acl.malloc(64)
    acl.call("aclrtSetDevice", DEVICE)
    acl.call("aclrtResetDevice", DEVICE)


def test_a_stream_of_another_context_gets_107003(bench: Bench) -> None:
    stream = bench.stream()
    other = bench.acl.create_context(DEVICE)
    with fails(107003):
        bench.wait(stream)
    bench.acl.call("aclrtDestroyContext", other)
    bench.make_current()


@pytest.mark.parametrize("number", [-1, 2, 99])
def test_a_device_that_is_none_gets_107001(acl: Acl, number: int) -> None:
    with fails(107001):
        acl.call("aclrtSetDevice", number)


def test_a_device_is_given_back_by_as_many_resets_as_it_was_set(acl: Acl, runtime: AscendRuntime) -> None:
    acl.call("aclrtSetDevice", DEVICE)
    address = acl.malloc(64)
    reclaimed = runtime.accounts().reclaimed
    acl.call("aclrtResetDevice", DEVICE)
    assert runtime.accounts().reclaimed == reclaimed
    acl.call("aclrtFree", address)


def test_a_reset_takes_back_what_is_left(acl: Acl, runtime: AscendRuntime) -> None:
    before = runtime.accounts()
    Bench(acl, runtime).stream()
    acl.call("aclrtResetDevice", DEVICE)
    after = runtime.accounts()
    assert after.living == before.living
    assert after.reclaimed == before.reclaimed + 4
    acl.call("aclrtSetDevice", DEVICE)


# Streams and events.


def test_a_copy_of_pinned_memory_is_queued_and_a_wait_waits_for_it(bench: Bench, runtime: AscendRuntime) -> None:
    stream = bench.stream()
    with runtime.options(copy_in_us=100_000, pace=1):
        bench.write(7)
        began_s = time.monotonic()
        bench.copy(IN, stream)
        assert time.monotonic() - began_s < 0.09
        assert not bench.acl.is_empty(stream, 1)
        bench.wait(stream)
        assert time.monotonic() - began_s >= 0.1


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
    with runtime.options(copy_in_us=50_000, copy_out_us=0, pace=1):
        bench.write(9)
        bench.copy(IN, first)
        bench.acl.record(there, first)
        bench.acl.make_wait(second, there)
        bench.copy(OUT, second)
        bench.acl.record(back, second)
        assert not bench.acl.has_happened(back)
        assert not bench.acl.wait_for(back, 1)
        assert bench.acl.wait_for(back, PATIENCE_MS)
        assert bench.acl.has_happened(there)


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


# Failures.


def test_a_failing_task_shows_at_the_wait_and_again_at_the_next(bench: Bench, runtime: AscendRuntime) -> None:
    stream = bench.stream()
    with runtime.faults("aclrtMemcpyAsync code=507015 mode=async"):
        bench.copy(IN, stream)
    for _ in range(2):
        with fails(507015):
            bench.wait(stream)


def test_without_stop_on_failure_what_is_queued_behind_runs(bench: Bench, runtime: AscendRuntime) -> None:
    stream, event = bench.stream(), bench.event()
    with runtime.faults("aclrtMemcpyAsync code=507015 mode=async"):
        bench.copy(IN, stream)
        bench.acl.record(event, stream)
    assert bench.acl.wait_for(event, PATIENCE_MS)


def test_with_stop_on_failure_no_stream_of_the_context_runs_on(bench: Bench, runtime: AscendRuntime) -> None:
    failing, other = bench.stream(stops=True), bench.stream()
    event, behind = bench.event(), bench.event()
    with runtime.faults("aclrtMemcpyAsync code=507015 mode=async"):
        bench.copy(IN, failing)
        bench.acl.record(event, failing)
    with fails(507015):
        bench.wait(failing)
    bench.acl.make_wait(other, event)
    bench.acl.record(behind, other)
    assert not bench.acl.wait_for(behind, 20)
    assert not bench.acl.has_happened(event)
    # The other stream says nothing of it.
    bench.wait(other)


@pytest.mark.parametrize(("mode", "heals"), [("poison", "context"), ("lose", "device")])
def test_a_poisoned_context_and_a_lost_device_fail_every_call_until_they_are_new(
    acl: Acl, runtime: AscendRuntime, mode: str, heals: str
) -> None:
    bench = Bench(acl, runtime)
    stream = bench.stream()
    with runtime.faults(f"aclrtMemcpyAsync code=507053 mode={mode}"):
        bench.copy(IN, stream)
    deadline_s = time.monotonic() + PATIENCE_MS / 1000
    while (code := code_of(bench.allocate)) == 0:
        assert time.monotonic() < deadline_s
    assert code == 507053
    other = 0
    if heals == "device":
        with fails(507053):
            acl.create_context(DEVICE)
        acl.call("aclrtResetDevice", DEVICE)
        acl.call("aclrtSetDevice", DEVICE)
    else:
        other = acl.create_context(DEVICE)
        acl.call("aclrtFree", acl.malloc(64))
        bench.make_current()
        bench.close()
        acl.call("aclrtDestroyContext", other)


def test_a_dead_device_is_not_brought_back_by_a_reset(acl: Acl, runtime: AscendRuntime) -> None:
    with runtime.faults("aclrtMalloc code=507899 mode=dead"):
        with fails(507899):
            acl.malloc(64)
        acl.call("aclrtResetDevice", DEVICE)
        with fails(507899):
            acl.call("aclrtSetDevice", DEVICE)
    acl.call("aclrtSetDevice", DEVICE)


def test_a_hung_stream_can_be_destroyed_by_force(bench: Bench, runtime: AscendRuntime) -> None:
    stream = bench.stream()
    with runtime.faults("aclrtMemcpyAsync mode=hang"):
        bench.copy(IN, stream)
        assert not bench.acl.is_empty(stream, 20)
        bench.acl.call("aclrtDestroyStreamForce", bench.streams.pop())


def test_a_call_that_hangs_returns_when_the_faults_are_cleared(bench: Bench, runtime: AscendRuntime) -> None:
    freed = threading.Event()

    def allocate() -> None:
        bench.make_current()
        bench.acl.call("aclrtFree", bench.acl.malloc(64))
        freed.set()

    with runtime.faults("aclrtMalloc mode=hang"):
        thread = threading.Thread(target=allocate)
        thread.start()
        assert not freed.wait(0.05)
    assert freed.wait(PATIENCE_MS / 1000)
    thread.join()


def test_calls_fail_after_so_many_and_so_often(bench: Bench, runtime: AscendRuntime) -> None:
    with runtime.faults("aclrtMal* code=207001 after=2 times=3"):
        outcomes = [code_of(bench.allocate) for _ in range(7)]
    assert outcomes == [0, 0, 207001, 207001, 207001, 0, 0]


def test_a_fault_of_another_device_is_not_ours(bench: Bench, runtime: AscendRuntime) -> None:
    with runtime.faults("aclrtMalloc code=207001 device=0 times=0"):
        bench.acl.call("aclrtFree", bench.acl.malloc(64))
    with runtime.faults(f"aclrtMalloc code=207001 device={DEVICE} times=0"), fails(207001):
        bench.acl.malloc(64)


def test_a_call_can_be_made_slow(bench: Bench, runtime: AscendRuntime) -> None:
    with runtime.faults("aclrtGetMemInfo us=30000"):
        began_s = time.monotonic()
        bench.acl.memory_info()
        assert time.monotonic() - began_s >= 0.03


@pytest.mark.parametrize(
    "text", ["aclrtMalloc", "aclrtMalloc code=x", "aclrtMalloc mode=async", "aclrtMalloc mode=odd code=1", "f colour=1"]
)
def test_a_fault_that_is_not_understood_is_refused(runtime: AscendRuntime, text: str) -> None:
    with pytest.raises(ValueError, match=r"."), runtime.faults(text):
        pass


def test_the_environment_brings_faults_and_options(libraries: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from mse_grad_server.backends.ascend.acl import Acl\n"
        "folder = Path(sys.argv[1])\n"
        "acl = Acl.load(folder / 'libascendcl.so', folder / 'libnnopbase.so')\n"
        "acl.initialise(); print(acl.device_count())\n"
        "try: acl.call('aclrtSetDevice', 7)\n"
        "except Exception as error: print(error.code)\n"
        "acl.finalise()"
    )
    accounts = tmp_path / "accounts"
    environment = {
        **os.environ,
        "ASCEND_SIMULATOR_DEVICES": "8",
        "ASCEND_SIMULATOR_FAULTS": "aclrtSetDevice code=507033",
        "ASCEND_SIMULATOR_ACCOUNTS": str(accounts),
    }
    command = [sys.executable, "-c", code, str(libraries)]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["8", "507033"]
    report = Accounts.parse(accounts.read_text())
    assert report.calls["aclrtSetDevice"] == 1
    assert not any(report.living.values())
    broken = {**environment, "ASCEND_SIMULATOR_FAULTS": "nonsense"}
    run = subprocess.run(command, env=broken, capture_output=True, text=True, check=False)
    assert run.returncode != 0
    assert "ASCEND_SIMULATOR_FAULTS: 'nonsense' does nothing" in run.stderr


# Memory.


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


def test_memory_of_the_caller_can_be_pinned_until_it_is_not(bench: Bench, runtime: AscendRuntime) -> None:
    stream, memory, mapped = bench.stream(), (ctypes.c_uint8 * SIZE_BYTES)(7), ctypes.c_void_p()
    register, unregister = bench.library.aclrtHostRegister, bench.library.aclrtHostUnregister
    assert register(memory, ctypes.c_uint64(SIZE_BYTES), 0, ctypes.byref(mapped)) == 0
    assert register(memory, ctypes.c_uint64(SIZE_BYTES), 0, ctypes.byref(mapped)) == 107000
    with runtime.options(copy_in_us=50_000, pace=1):
        began_s = time.monotonic()
        bench.acl.copy_async(bench.device, ctypes.addressof(memory), SIZE_BYTES, IN, stream)
        assert time.monotonic() - began_s < 0.045
        bench.wait(stream)
    assert unregister(memory) == 0
    assert unregister(memory) == 107000


# Executors.


def planned(bench: Bench, elements: int) -> tuple[int, list[int]]:
    tensors = [bench.acl.create_tensor(elements, DataType.FLOAT) for _ in range(4)]
    predict, label, dout, y = tensors
    executor, _ = bench.opapi.plan((predict, label, dout, y), Reduction.SUM, None)
    bench.acl.call("aclSetAclOpExecutorRepeatable", executor)
    for index in range(3):
        bench.acl.call("aclSetInputTensorAddr", executor, index, tensors[index], bench.device + 1024 * index)
    bench.acl.call("aclSetOutputTensorAddr", executor, 0, y, bench.device + 3072)
    return executor, tensors


def forget(bench: Bench, executor: int, tensors: list[int]) -> None:
    bench.acl.call("aclDestroyAclOpExecutor", executor)
    for tensor in tensors:
        bench.acl.call("aclDestroyTensor", tensor)


def test_a_repeatable_executor_runs_on_what_its_addresses_hold(bench: Bench) -> None:
    stream = bench.stream()
    executor, tensors = planned(bench, 200)
    for value in (1.0, 2.5):
        np.ctypeslib.as_array((ctypes.c_float * 1024).from_address(bench.host))[:] = np.repeat(
            [value, 0.5, 2.0, np.nan], 256
        )
        bench.copy(IN, stream)
        bench.opapi.launch(executor, stream, None, workspace=0, workspace_bytes=0)
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
    with runtime.faults(f"aclnnMseLossGrad mode={mode}"):
        bench.opapi.launch(executor, stream, None, workspace=0, workspace_bytes=0)
        bench.copy(OUT, stream)
        bench.wait(stream)
    assert set(ctypes.string_at(bench.host + 3072, 1024)) == {expected}
    forget(bench, executor, tensors)


def test_an_executor_that_is_queued_is_not_to_be_changed(bench: Bench, runtime: AscendRuntime) -> None:
    stream = bench.stream()
    executor, tensors = planned(bench, 200)
    with runtime.faults("aclrtMemcpyAsync mode=hang"):
        bench.copy(IN, stream)
        bench.opapi.launch(executor, stream, None, workspace=0, workspace_bytes=0)
        bench.acl.call("aclSetOutputTensorAddr", executor, 0, tensors[3], bench.device)
        assert "aclSetOutputTensorAddr of an executor that is queued" in runtime.accounts().violations[-1]
        forget(bench, executor, tensors)
        assert "aclDestroyAclOpExecutor of an executor that is queued" in runtime.accounts().violations[-1]


# Virtual time.


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
            bench.opapi.launch(executor, streams[1], None, workspace=0, workspace_bytes=0)
            bench.acl.record(done, streams[1])
            bench.acl.make_wait(streams[2], done)
            bench.copy(OUT, streams[2])
        bench.wait(streams[2])
        accounts = runtime.accounts()
    assert accounts.busy_us == {"copy_in": 20_000, "kernel": 20_000, "copy_out": 20_000, "other": 0}
    assert accounts.elapsed_us == (blocks + 2) * 1000
    forget(bench, executor, tensors)


def test_what_the_host_waits_for_comes_before_what_it_queues_next(bench: Bench, runtime: AscendRuntime) -> None:
    streams = [bench.stream(), bench.stream()]
    with runtime.options(copy_in_us=1000, copy_out_us=1000):
        runtime.restart_time()
        for _ in range(10):
            bench.copy(IN, streams[0])
            bench.wait(streams[0])
            bench.copy(OUT, streams[1])
            bench.wait(streams[1])
        assert runtime.accounts().elapsed_us == 20_000
