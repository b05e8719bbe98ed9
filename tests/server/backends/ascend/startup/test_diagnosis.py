"""Failing starts: each has its own exit code and a message with advice, and leaves nothing behind."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mse_grad_server.backends.ascend.backend import AscendBackend, AscendOptions
from mse_grad_server.backends.ascend.device.device import DeviceOptions
from mse_grad_server.backends.ascend.startup.diagnosis import check_environment, check_permission, load
from mse_grad_server.backends.ascend.startup.errors import (
    DeviceHung,
    DevicePermission,
    DriverMismatch,
    LibraryNotFound,
    NoDevice,
    OpPackageMissing,
)
from mse_grad_server.backends.ascend.startup.libraries import Libraries
from mse_grad_server.process.exits import BackendUnavailable, ExitCode, SettingsError, StartError, VerificationFailed
from support.npu.backend import DEVICE, Open, Witness
from support.npu.runtime import AscendRuntime


@contextmanager
def as_user_of_no_group() -> Iterator[None]:
    """Drops the privileges of root, who may open every file."""
    if os.getuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def device_folder() -> Iterator[Path]:
    """A folder that every user can reach, unlike pytest's own."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        path.chmod(0o755)
        yield path


def options_of(runtime: AscendRuntime) -> AscendOptions:
    return AscendOptions(str(runtime.folder), str(runtime.op_library), DeviceOptions(DEVICE))


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
        ("aclnnMseLossGradPartGetWorkspaceSize code=561112", OpPackageMissing, "ASCEND_COMPUTE_UNIT"),
        ("aclnnMseLossGradPartGetWorkspaceSize code=561003", OpPackageMissing, "install"),
        ("aclnnMseLossGradPartGetWorkspaceSize code=561108", OpPackageMissing, "incomplete"),
        ("aclnnMseLossGradPartGetWorkspaceSize code=561113", OpPackageMissing, "incomplete"),
        ("aclrtMalloc code=207001", BackendUnavailable, "out of memory"),
        ("aclrtCreateContext code=507000", BackendUnavailable, "internal error"),
        ("aclnnMseLossGradPart code=507015 mode=async", BackendUnavailable, "AI core exception"),
        ("aclnnMseLossGradPart mode=zero times=0", VerificationFailed, "differ from the formula"),
        ("aclnnMseLossGradPart mode=skip", VerificationFailed, "differ from the formula"),
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
    # The fixture compares the accounts before and after the test.


def test_a_start_that_hangs_ends(open_backend: Open, runtime: AscendRuntime) -> None:
    with runtime.faults("aclrtSetDevice mode=hang"):
        error = start_error(open_backend, hang_s=0.2)
        assert type(error) is DeviceHung


def test_a_device_with_too_little_memory_is_not_taken(open_backend: Open, runtime: AscendRuntime) -> None:
    with runtime.options(memory_bytes=1 << 16):
        assert "no 262144 bytes are left" in str(start_error(open_backend))


def test_a_file_that_the_user_may_not_open_is_named(device_folder: Path) -> None:
    check_permission(0, {}, device_folder=device_folder)
    (device_folder / "davinci5").touch(mode=0o000)
    with as_user_of_no_group():
        check_permission(0, {}, device_folder=device_folder)
        with pytest.raises(DevicePermission, match=r"davinci5: join its group, \d+ .*HwHiAiUser"):
            check_permission(5, {}, device_folder=device_folder)


def test_a_file_that_a_control_group_refuses_is_named_although_its_mode_allows_it(device_folder: Path) -> None:
    for name in ("davinci0", "davinci_manager"):
        (device_folder / name).touch(mode=0o666)

    def open_device(file: Path) -> int:
        if file.name == "davinci0":
            raise PermissionError(errno.EPERM, "Operation not permitted", str(file))
        return os.open(file, os.O_RDWR)

    with pytest.raises(DevicePermission, match=r"davinci0: .*DeviceAllow=.*--device"):
        check_permission(0, {}, device_folder=device_folder, open_device=open_device)


def test_a_device_file_without_a_driver_is_left_to_the_runtime(device_folder: Path) -> None:
    (device_folder / "davinci0").touch()

    def open_device(file: Path) -> int:
        raise OSError(errno.ENXIO, "No such device or address", str(file))

    check_permission(0, {}, device_folder=device_folder, open_device=open_device)


def test_the_descriptors_of_the_files_are_closed_again(device_folder: Path) -> None:
    opened = []

    def open_device(file: Path) -> int:
        opened.append(os.open(file, os.O_RDWR))
        return opened[-1]

    (device_folder / "davinci0").touch()
    check_permission(0, {}, device_folder=device_folder, open_device=open_device)
    (descriptor,) = opened
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


def test_the_file_is_that_of_the_device_that_the_process_was_given(device_folder: Path) -> None:
    (device_folder / "davinci5").touch(mode=0o000)
    given = {"ASCEND_RT_VISIBLE_DEVICES": "3, 5"}
    with as_user_of_no_group():
        check_permission(0, given, device_folder=device_folder)
        with pytest.raises(DevicePermission, match="davinci5"):
            check_permission(1, given, device_folder=device_folder)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("ACLNN_CACHE_LIMIT", "0"),
        ("ACLNN_CACHE_LIMIT", " 000"),
        ("ACLNN_CACHE_LIMIT", "0x10"),  # std::stoull reads the value so
        ("DISABLE_L2_CACHE", "1"),
    ],
)
def test_a_variable_under_which_executors_crash_is_refused(runtime: AscendRuntime, variable: str, value: str) -> None:
    backend = AscendBackend(options_of(runtime), Witness(), environment={variable: value})
    with pytest.raises(SettingsError, match=variable) as raised:
        backend.open()
    assert raised.value.exit_code == ExitCode.SETTINGS
    assert "unset it" in str(raised.value)


@pytest.mark.parametrize(
    ("variable", "value"),
    [("ACLNN_CACHE_LIMIT", "1"), ("ACLNN_CACHE_LIMIT", "100000"), ("ACLNN_CACHE_LIMIT", ""), ("DISABLE_L2_CACHE", "0")],
)
def test_another_value_of_the_variable_is_accepted(variable: str, value: str) -> None:
    check_environment({variable: value})


@pytest.mark.parametrize(("given", "found"), [({}, "0"), ({"ASCEND_LOG_DEVICE_FLUSH_TIMEOUT": "5000"}, "5000")])
def test_the_end_does_not_wait_for_the_devices_log_by_default(
    tmp_path: Path, runtime: AscendRuntime, given: dict[str, str], found: str
) -> None:
    (tmp_path / "libacl_rt.so").write_text("no library")
    (tmp_path / "libnnopbase.so").touch()
    environment = dict(given)
    options = AscendOptions(str(tmp_path), str(runtime.op_library))
    with pytest.raises(LibraryNotFound, match="does not load"):
        AscendBackend(options, Witness(), environment=environment).open()
    # The variable is set before the libraries are loaded, because they read it at that time.
    assert environment["ASCEND_LOG_DEVICE_FLUSH_TIMEOUT"] == found


def test_a_file_that_is_no_library_is_reported(tmp_path: Path, runtime: AscendRuntime) -> None:
    broken = tmp_path / "libacl_rt.so"
    broken.write_text("no library")
    nnopbase = runtime.folder / "libnnopbase.so"
    with pytest.raises(LibraryNotFound, match=r"set_env\.sh"):
        load(Libraries(broken, nnopbase, runtime.op_library))
    with pytest.raises(OpPackageMissing, match="another toolkit"):
        load(Libraries(runtime.folder / "libacl_rt.so", nnopbase, broken))


def test_the_package_of_the_operator_comes_first_before_any_library_is_loaded(tmp_path: Path) -> None:
    opapi = tmp_path / "op_api" / "lib" / "libcust_opapi.so"
    opapi.parent.mkdir(parents=True)
    for library in (tmp_path / "libacl_rt.so", tmp_path / "libnnopbase.so", opapi):
        library.write_text("no library")
    environment = {"ASCEND_CUSTOM_OPP_PATH": "/other"}
    options = AscendOptions(str(tmp_path), str(opapi))
    with pytest.raises(LibraryNotFound, match="does not load"):
        AscendBackend(options, Witness(), environment=environment).open()
    assert environment["ASCEND_CUSTOM_OPP_PATH"] == f"{tmp_path}:/other"


def test_an_operator_of_the_same_name_that_is_not_ours_is_not_taken(runtime: AscendRuntime) -> None:
    runtime_library = runtime.folder / "libacl_rt.so"
    nnopbase = runtime.folder / "libnnopbase.so"
    with pytest.raises(OpPackageMissing, match="aclnnMseLossGradPartGetWorkspaceSize"):
        load(Libraries(runtime_library, nnopbase, nnopbase))


def test_a_library_without_a_function_is_too_old(runtime: AscendRuntime) -> None:
    nnopbase = runtime.folder / "libnnopbase.so"
    with pytest.raises(LibraryNotFound, match="no function aclInit; the toolkit is older than"):
        load(Libraries(Path("libm.so.6"), nnopbase, runtime.op_library))
