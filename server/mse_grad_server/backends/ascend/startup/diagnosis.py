"""Diagnosis of a failed start: the cause of the failure, and the advice for the user."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable, Mapping, MutableMapping
from pathlib import Path

from mse_grad_server.backends.ascend.acl.error_codes import AclError
from mse_grad_server.backends.ascend.acl.operator import OpApi
from mse_grad_server.backends.ascend.acl.runtime import Acl
from mse_grad_server.backends.ascend.startup.errors import (
    DevicePermission,
    DriverMismatch,
    LibraryNotFound,
    NoDevice,
    OpPackageMissing,
)
from mse_grad_server.backends.ascend.startup.libraries import OLDEST_TOOLKIT, Libraries
from mse_grad_server.process.exits import BackendUnavailable, SettingsError

__all__ = [
    "SHARED_FILES",
    "START_CODES",
    "check_environment",
    "check_permission",
    "explain",
    "load",
    "load_operator",
    "load_runtime",
    "open_device",
    "require_device",
    "set_environment",
]

SHARED_FILES = ("davinci_manager", "devmm_svm", "hisi_hdc")
"""The driver's device files that every process on an NPU opens, besides the file of its NPU."""

_PACKAGE_CODES = {561003, 561107, 561112}
# Codes of aclnn about the descriptions (JSON) beside the kernels of a package.
_DESCRIPTION_CODES = {561104, 561105, *range(561108, 561112), *range(561113, 561120)}
_DRIVER_CODES = {100039, 500004, 507008, 507033, 507899}
_NO_DEVICE_CODES = {107001, 207004}
_PERMISSION_CODES = {207006}
# Values that disable the argument cache; they match what CANN's std::stoull and strcmp accept.
_CACHE_SWITCHES = {"ACLNN_CACHE_LIMIT": re.compile(r"\s*[+-]?0+(?!\d)"), "DISABLE_L2_CACHE": re.compile(r"1\Z")}

START_CODES = (_PACKAGE_CODES, _DESCRIPTION_CODES, _DRIVER_CODES, _NO_DEVICE_CODES, _PERMISSION_CODES)
"""The codes that `explain` knows, grouped by their advice."""
_CHOOSE_DEVICE = "See npu-smi info and ASCEND_RT_VISIBLE_DEVICES, and choose another with --device"


def check_environment(environment: Mapping[str, str]) -> None:
    """Raises SettingsError if a variable disables the argument cache of aclnn.

    Without the cache an executor owns its arguments, and the process crashes when an executor that ran repeatedly is
    destroyed. Source: opbase, ArgsPool::GetCacheSizeLimit and EnableNnopbaseArgsCache.
    """
    for variable, switches_off in _CACHE_SWITCHES.items():
        value = environment.get(variable, "")
        if switches_off.match(value):
            raise SettingsError(
                f"{variable} is {value!r}, which switches off the argument cache of aclnn: executors that run "
                "repeatedly, as those of this server, crash without it; unset it"
            )


def set_environment(environment: MutableMapping[str, str]) -> None:
    """Sets variables that the libraries read when they are loaded, unless they are set already.

    By default aclFinalize waits up to 2 s for the device's log, which stays on the device anyway.
    """
    environment.setdefault("ASCEND_LOG_DEVICE_FLUSH_TIMEOUT", "0")


def load(libraries: Libraries) -> tuple[Acl, OpApi]:
    """Loads the libraries; raises the errors of `load_runtime` and `load_operator`."""
    acl = load_runtime(libraries.ascendcl, libraries.nnopbase)
    return acl, load_operator(libraries.opapi, acl)


def load_runtime(ascendcl: Path, nnopbase: Path) -> Acl:
    """Loads the libraries of the runtime.

    Raises:
        LibraryNotFound: A library does not load, or lacks a function.
        DriverMismatch: It does not load because a library of the driver is missing.
    """
    try:
        return Acl.load(ascendcl, nnopbase)
    except OSError as cause:
        if "ascend_hal" in str(cause) or "libc_sec" in str(cause):
            raise DriverMismatch(
                f"{ascendcl} does not load: {cause}. The driver's libraries are not found: install the driver, and add "
                "driver and common of /usr/local/Ascend/driver/lib64 to LD_LIBRARY_PATH"
            ) from cause
        raise LibraryNotFound(
            f"{ascendcl} does not load: {cause}. Source the toolkit's set_env.sh before the server starts"
        ) from cause
    except AttributeError as cause:
        raise LibraryNotFound(f"{cause}; the toolkit is older than {OLDEST_TOOLKIT}: install a newer one") from cause


def load_operator(opapi: Path, acl: Acl) -> OpApi:
    """Loads the operator's library; raises OpPackageMissing if it does not load, or has another operator."""
    try:
        return OpApi.load(opapi, acl)
    except OSError as cause:
        raise OpPackageMissing(
            f"{opapi} does not load: {cause}. The package was built for another toolkit: build it for this one"
        ) from cause
    except AttributeError as cause:
        raise OpPackageMissing(
            f"{cause}: that is the operator of another package with the same name. Install the package of this server, "
            "or name its library with --ascend-op-library"
        ) from cause


def open_device(file: Path) -> int:
    """Opens a file of the driver for reading and writing and returns its descriptor; raises OSError."""
    return os.open(file, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)


def check_permission(
    device: int,
    environment: Mapping[str, str],
    *,
    device_folder: Path = Path("/dev"),
    open_device: Callable[[Path], int] = open_device,
) -> None:
    """Raises DevicePermission if this process may not open an existing device file.

    It opens and closes each file, because access(2) checks only the mode, not the control group.

    Args:
        device: Number of the device among those that the process may use.
        environment: Variables of the process; ASCEND_RT_VISIBLE_DEVICES lists those devices.
        device_folder: Folder of the device files.
        open_device: Opens a file.
    """
    visible = environment.get("ASCEND_RT_VISIBLE_DEVICES", "").split(",")
    number = visible[device].strip() if visible != [""] and device < len(visible) else str(device)
    for name in (*SHARED_FILES, f"davinci{number}"):
        file = device_folder / name
        if not file.exists():
            continue
        try:
            os.close(open_device(file))
        except PermissionError as cause:
            raise DevicePermission(f"user {os.getuid()} may not open {file}: {_way_to_open(file, cause)}") from cause
        except OSError:
            continue  # no driver behind it, or busy: not a matter of permission, and the runtime will report it


def _way_to_open(file: Path, refusal: PermissionError) -> str:
    # A file's mode refuses with EACCES; the control group of a unit or of a container refuses with EPERM.
    if refusal.errno == errno.EPERM:
        return (
            "its mode allows it and the control group refuses; allow the device with DeviceAllow= in the unit, or with "
            "--device for the container"
        )
    group = file.stat().st_gid
    return (
        f"join its group, {group} (usermod -aG HwHiAiUser, then log in again; for a container --group-add {group}, in "
        f"Kubernetes supplementalGroups: [{group}])"
    )


def require_device(device: int, count: int) -> None:
    """Raises NoDevice unless `device` is below `count`."""
    if device >= count:
        known = f"this process may use {count}, counted from 0" if count else "this process may use none"
        raise NoDevice(f"there is no device {device}: {known}. {_CHOOSE_DEVICE}")


def explain(error: AclError, *, device: int) -> BackendUnavailable:
    """Returns the error for the user, with its advice, after a start that failed with `error`."""
    if error.code in _PACKAGE_CODES:
        return OpPackageMissing(
            f"{error}. The operator package has no kernel for this chip: build it with ASCEND_COMPUTE_UNIT for it "
            "(ascend910b or ascend310b) and install it"
        )
    if error.code in _DESCRIPTION_CODES:
        return OpPackageMissing(
            f"{error}. The operator package is incomplete, or was built by another toolkit: build it with this one and "
            "install it"
        )
    if error.code in _PERMISSION_CODES:
        return DevicePermission(f"{error}. Add the user to the group HwHiAiUser")
    if error.code in _NO_DEVICE_CODES:
        return NoDevice(f"there is no device {device}: {error}. {_CHOOSE_DEVICE}")
    if error.code in _DRIVER_CODES:
        return DriverMismatch(
            f"{error}. The driver does not answer or does not fit this toolkit: see npu-smi info, and the table of "
            "versions that belong together in the toolkit's release notes"
        )
    return BackendUnavailable(f"device {device} cannot be used: {error}")
