"""Errors that keep a process from using its device; each ends the process with its own exit code.

BackendUnavailable
+-- LibraryNotFound
+-- OpPackageMissing
+-- DriverMismatch
+-- NoDevice
+-- DevicePermission
+-- DeviceLost
    +-- DeviceHung
"""

from __future__ import annotations

from mse_grad_server.process.exits import BackendUnavailable, ExitCode

__all__ = [
    "DeviceHung",
    "DeviceLost",
    "DevicePermission",
    "DriverMismatch",
    "LibraryNotFound",
    "NoDevice",
    "OpPackageMissing",
]


class LibraryNotFound(BackendUnavailable):
    """The libraries of the runtime were not found, or do not load; the message lists the places searched."""

    exit_code = ExitCode.RUNTIME_LIBRARY


class OpPackageMissing(BackendUnavailable):
    """The operator package was not found, lacks our operator, or has no kernel for this chip."""

    exit_code = ExitCode.OP_PACKAGE


class DriverMismatch(BackendUnavailable):
    """The driver is missing, or does not fit the toolkit."""

    exit_code = ExitCode.DRIVER


class NoDevice(BackendUnavailable):
    """There is no device of the requested number."""

    exit_code = ExitCode.NO_DEVICE


class DevicePermission(BackendUnavailable):
    """The user of the process may not open the device."""

    exit_code = ExitCode.PERMISSION


class DeviceLost(BackendUnavailable):
    """The device failed, and no repair helped."""

    exit_code = ExitCode.DEVICE_LOST


class DeviceHung(DeviceLost):
    """A call to the device does not return; nothing in this process can help."""

    exit_code = ExitCode.DEVICE_HUNG
