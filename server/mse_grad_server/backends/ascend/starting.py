"""What a failure at the start means, and what to do about it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from mse_grad_server.backends.ascend.acl import Acl
from mse_grad_server.backends.ascend.faults import AclError
from mse_grad_server.backends.ascend.libraries import Libraries
from mse_grad_server.backends.ascend.opapi import OpApi
from mse_grad_server.backends.ascend.start_errors import (
    DevicePermission,
    DriverMismatch,
    LibraryNotFound,
    NoDevice,
    OpPackageMissing,
)
from mse_grad_server.exits import BackendUnavailable

__all__ = ["check_permission", "explain", "load", "require_device"]

_PACKAGE_CODES = {561003, 561107, 561112}
_DRIVER_CODES = {100039, 500004, 507008, 507033, 507899}
_NO_DEVICE_CODES = {107001, 207004}
_PERMISSION_CODES = {207006}
_CHOOSE_DEVICE = "See npu-smi info and ASCEND_RT_VISIBLE_DEVICES, and choose another with --device"


def load(libraries: Libraries) -> tuple[Acl, OpApi]:
    """Loads the libraries.

    Raises:
        LibraryNotFound: One does not load, or lacks a function.
        DriverMismatch: It does not load because of the driver's library.
        OpPackageMissing: The operator's library does not load, or is not ours.
    """
    try:
        acl = Acl.load(libraries.ascendcl, libraries.nnopbase)
    except OSError as cause:
        if "ascend_hal" in str(cause) or "libc_sec" in str(cause):
            raise DriverMismatch(
                f"{libraries.ascendcl} does not load: {cause}. The driver's libraries are not found: install the "
                "driver, and add driver and common of /usr/local/Ascend/driver/lib64 to LD_LIBRARY_PATH"
            ) from cause
        raise LibraryNotFound(
            f"{libraries.ascendcl} does not load: {cause}. Source the toolkit's set_env.sh before the server starts"
        ) from cause
    except AttributeError as cause:
        raise LibraryNotFound(f"{cause}; the toolkit is older than 8.0: install a newer one") from cause
    try:
        return acl, OpApi.load(libraries.opapi, acl)
    except OSError as cause:
        raise OpPackageMissing(
            f"{libraries.opapi} does not load: {cause}. The package was built for another toolkit: build it for this"
        ) from cause
    except AttributeError as cause:
        raise OpPackageMissing(
            f"{cause}: that is the operator of another package with the same name. Install the package of this server, "
            "or name its library with --ascend-op-library"
        ) from cause


def check_permission(device: int, environment: Mapping[str, str], *, device_folder: Path = Path("/dev")) -> None:
    """Raises DevicePermission where a file of the driver exists that this user may not open.

    Args:
        device: Number of the device among those that the process may use.
        environment: ASCEND_RT_VISIBLE_DEVICES says which those are.
        device_folder: Where the driver's files are.
    """
    visible = environment.get("ASCEND_RT_VISIBLE_DEVICES", "").split(",")
    number = visible[device].strip() if visible != [""] and device < len(visible) else str(device)
    for name in ("davinci_manager", "devmm_svm", "hisi_hdc", f"davinci{number}"):
        file = device_folder / name
        if file.exists() and not os.access(file, os.R_OK | os.W_OK):
            raise DevicePermission(
                f"user {os.getuid()} may not open {file}: add the user to the group HwHiAiUser (in a container: give "
                "it the group's number as a supplementary group)"
            )


def require_device(device: int, count: int) -> None:
    """Raises NoDevice where `device` is none of `count` devices."""
    if device >= count:
        known = f"this process may use {count}, counted from 0" if count else "this process may use none"
        raise NoDevice(f"there is no device {device}: {known}. {_CHOOSE_DEVICE}")


def explain(error: AclError, *, device: int) -> BackendUnavailable:
    """Returns what a start that failed with `error` is to the user, and what to do about it."""
    if error.code in _PACKAGE_CODES:
        return OpPackageMissing(
            f"{error}. The operator package has no kernel for this chip: build it with ASCEND_COMPUTE_UNIT for it "
            "(ascend910b or ascend310b) and install it"
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
