"""Starts that fail: each ends with an exit code of its own, a message that says what to do, and nothing left behind."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mse_grad_server.backends.ascend.backend import AscendBackend, AscendOptions
from mse_grad_server.backends.ascend.device import DeviceOptions
from mse_grad_server.backends.ascend.libraries import Libraries
from mse_grad_server.backends.ascend.start_errors import (
    DeviceHung,
    DevicePermission,
    DriverMismatch,
    LibraryNotFound,
    NoDevice,
    OpPackageMissing,
)
from mse_grad_server.backends.ascend.starting import check_permission, load
from mse_grad_server.exits import BackendUnavailable, StartError, VerificationFailed
from support.ascend_backend import Open, Witness
from support.ascend_runtime import AscendRuntime


@contextmanager
def as_user_of_no_group() -> Iterator[None]:
    """Takes from root, who may open every file, what it may."""
    if os.getuid() != 0:
        yield
        return
    os.setreuid(65534, -1)
    try:
        yield
    finally:
        os.setreuid(0, -1)


def start_error(open_backend: Open, **options: float) -> StartError:
    with pytest.raises(StartError) as raised, open_backend(**options):
        pass
    return raised.value


def test_a_device_that_does_not_exist_is_counted_for_the_user(runtime: AscendRuntime) -> None:
    options = AscendOptions(str(runtime.folder), str(runtime.op_library), DeviceOptions(number=2))
    with pytest.raises(NoDevice, match="may use 2, counted from 0") as raised:
        AscendBackend(options, Witness()).open()
    assert "ASCEND_RT_VISIBLE_DEVICES" in str(raised.value)


@pytest.mark.parametrize(
    ("fault", "kind", "advice"),
    [
        ("aclInit code=507899", DriverMismatch, "npu-smi info"),
        ("aclInit code=507008", DriverMismatch, "release notes"),
        ("aclrtSetDevice code=507033", DriverMismatch, "npu-smi info"),
        ("aclrtSetDevice code=107001", NoDevice, "--device"),
        ("aclrtGetDeviceCount code=207004", NoDevice, "npu-smi info"),
        ("aclrtSetDevice code=207006", DevicePermission, "HwHiAiUser"),
        ("aclnnMseLossGradGetWorkspaceSize code=561112", OpPackageMissing, "ASCEND_COMPUTE_UNIT"),
        ("aclnnMseLossGradGetWorkspaceSize code=561003", OpPackageMissing, "install"),
        ("aclrtMalloc code=207001", BackendUnavailable, "out of memory"),
        ("aclrtCreateContext code=507000", BackendUnavailable, "internal error"),
        ("aclnnMseLossGrad code=507015 mode=async", BackendUnavailable, "AI core exception"),
        ("aclnnMseLossGrad mode=zero times=0", VerificationFailed, "differ from the formula"),
        ("aclnnMseLossGrad mode=skip", VerificationFailed, "differ from the formula"),
        ("aclrtMemcpyAsync mode=skip after=1", VerificationFailed, "differ from the formula"),
    ],
)
def test_a_start_that_fails_says_what_to_do(
    open_backend: Open, runtime: AscendRuntime, fault: str, kind: type[StartError], advice: str
) -> None:
    with runtime.faults(fault):
        error = start_error(open_backend)
    assert type(error) is kind
    assert advice in str(error)


@pytest.mark.parametrize("call", ["aclrtMalloc", "aclrtMallocHost", "aclrtCreateEventExWithFlag", "aclrtCreateStream"])
@pytest.mark.parametrize("after", [0, 1, 2])
def test_a_start_that_fails_half_way_leaves_nothing_behind(
    open_backend: Open, runtime: AscendRuntime, call: str, after: int
) -> None:
    with runtime.faults(f"{call} code=207001 after={after}"):
        assert isinstance(start_error(open_backend), BackendUnavailable)
    # The accounts are held against those before by the fixture.


def test_a_start_that_hangs_ends(open_backend: Open, runtime: AscendRuntime) -> None:
    with runtime.faults("aclrtSetDevice mode=hang"):
        error = start_error(open_backend, hang_s=0.2)
        assert type(error) is DeviceHung


def test_a_device_with_too_little_memory_is_not_taken(open_backend: Open, runtime: AscendRuntime) -> None:
    with runtime.options(memory_bytes=1 << 16):
        assert "no 262144 bytes are left" in str(start_error(open_backend))


def test_a_file_that_the_user_may_not_open_is_named(tmp_path: Path) -> None:
    check_permission(0, {}, device_folder=tmp_path)
    (tmp_path / "davinci5").touch(mode=0o000)
    with as_user_of_no_group():
        check_permission(0, {}, device_folder=tmp_path)
        with pytest.raises(DevicePermission, match=r"davinci5: add .* HwHiAiUser"):
            check_permission(5, {}, device_folder=tmp_path)


def test_the_file_is_that_of_the_device_that_the_process_was_given(tmp_path: Path) -> None:
    (tmp_path / "davinci5").touch(mode=0o000)
    given = {"ASCEND_RT_VISIBLE_DEVICES": "3, 5"}
    with as_user_of_no_group():
        check_permission(0, given, device_folder=tmp_path)
        with pytest.raises(DevicePermission, match="davinci5"):
            check_permission(1, given, device_folder=tmp_path)


def test_a_library_that_is_none_says_so(tmp_path: Path, runtime: AscendRuntime) -> None:
    broken = tmp_path / "libascendcl.so"
    broken.write_text("no library")
    nnopbase = runtime.folder / "libnnopbase.so"
    with pytest.raises(LibraryNotFound, match=r"set_env\.sh"):
        load(Libraries(broken, nnopbase, runtime.op_library))
    with pytest.raises(OpPackageMissing, match="another toolkit"):
        load(Libraries(runtime.folder / "libascendcl.so", nnopbase, broken))


def test_an_operator_of_the_same_name_that_is_not_ours_is_not_taken(runtime: AscendRuntime) -> None:
    runtime_library = runtime.folder / "libascendcl.so"
    nnopbase = runtime.folder / "libnnopbase.so"
    with pytest.raises(OpPackageMissing, match="aclnnMseLossGradGetWorkspaceSize"):
        load(Libraries(runtime_library, nnopbase, nnopbase))


def test_a_library_without_a_function_is_too_old(runtime: AscendRuntime) -> None:
    nnopbase = runtime.folder / "libnnopbase.so"
    with pytest.raises(LibraryNotFound, match="no function aclInit; the toolkit is older than"):
        load(Libraries(Path("libm.so.6"), nnopbase, runtime.op_library))
