"""How the process ends, and what ends it before it is ready.

StartError
+-- SettingsError
+-- CredentialsError
+-- ListenError
+-- BackendUnavailable
+-- VerificationFailed

Knows nothing of gRPC, which reads its environment when it is imported: the settings come first.
"""

from __future__ import annotations

from enum import IntEnum

__all__ = [
    "BackendUnavailable",
    "CredentialsError",
    "ExitCode",
    "ListenError",
    "SettingsError",
    "StartError",
    "VerificationFailed",
]


class ExitCode(IntEnum):
    """How the process ends; supervisors and scripts may rely on the numbers."""

    OK = 0
    """It drained after SIGTERM or SIGINT."""
    FAILED = 1
    """An error that has no code of its own."""
    SETTINGS = 2
    """A flag, variable, key or value is wrong."""
    LISTEN = 3
    """An address cannot be bound."""
    BACKEND = 4
    """The backend cannot take its device or its kernel."""
    VERIFICATION = 5
    """A first gradient was wrong."""
    FORCED = 6
    """A second signal came while it drained."""
    NO_WORKERS = 7
    """Every worker was given up, and not all for the same reason."""
    CREDENTIALS = 8
    """A certificate, key or file of tokens cannot be used; a renewed one can."""
    RUNTIME_LIBRARY = 10
    """The libraries of the Ascend runtime were not found, or do not load."""
    OP_PACKAGE = 11
    """The operator package was not found, or is not the one of this server."""
    DRIVER = 12
    """Driver and toolkit do not fit each other, or the driver is missing."""
    NO_DEVICE = 13
    """The host has no such device."""
    PERMISSION = 14
    """The user may not open the device."""
    DEVICE_LOST = 15
    """The device failed and no repair helped; another process may find it well."""
    DEVICE_HUNG = 16
    """A call to the device did not return."""


class StartError(Exception):
    """The process cannot start; the message says what to do.

    Attributes:
        exit_code: How the process ends.
    """

    exit_code = ExitCode.FAILED


class SettingsError(StartError):
    """A setting is wrong; the message names it as it was written and says what is allowed."""

    exit_code = ExitCode.SETTINGS


class CredentialsError(StartError):
    """A certificate, key or file of tokens cannot be used; the message names the file and never what it holds."""

    exit_code = ExitCode.CREDENTIALS


class ListenError(StartError):
    """An address cannot be bound."""

    exit_code = ExitCode.LISTEN


class BackendUnavailable(StartError):
    """The backend cannot take its device or its kernel."""

    exit_code = ExitCode.BACKEND


class VerificationFailed(StartError):
    """A first gradient differs from the formula."""

    exit_code = ExitCode.VERIFICATION
