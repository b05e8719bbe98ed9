"""Injected faults: the call that reports each, its damage, and its remedy."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from mse_grad_server.backends.ascend.acl.runtime import Acl
from support.npu.runtime import Accounts, AscendRuntime
from support.npu.runtime_bench import DEVICE, IN, PATIENCE_MS, Bench, code_of, fails


def test_a_failing_task_shows_at_the_wait_and_again_at_the_next(bench: Bench, runtime: AscendRuntime) -> None:
    stream = bench.stream()
    with runtime.faults("aclrtMemcpyAsync code=507015 mode=async"):
        bench.copy(IN, stream)
    for _ in range(2):
        with fails(507015):
            bench.wait(stream)


def test_without_stop_on_failure_the_tasks_behind_run(bench: Bench, runtime: AscendRuntime) -> None:
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
    # The other stream does not report it.
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


def test_calls_fail_after_a_number_of_calls_and_a_number_of_times(bench: Bench, runtime: AscendRuntime) -> None:
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
def test_a_fault_with_a_syntax_error_is_refused(runtime: AscendRuntime, text: str) -> None:
    with pytest.raises(ValueError, match=r"."), runtime.faults(text):
        pass


def test_the_environment_brings_faults_and_options(libraries: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from mse_grad_server.backends.ascend.acl.runtime import Acl\n"
        "folder = Path(sys.argv[1])\n"
        "acl = Acl.load(folder / 'libacl_rt.so', folder / 'libnnopbase.so')\n"
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
