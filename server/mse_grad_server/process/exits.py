"""Exit codes of the process, and the errors that end it before it is ready.

StartError
+-- SettingsError
+-- CredentialsError
+-- ListenError
|   +-- AddressInUse
+-- BackendUnavailable
+-- VerificationFailed
+-- OutputError

Does not import grpc: that reads its environment when it is imported, so the settings come first.
"""

from __future__ import annotations

from collections.abc import Awaitable
from enum import IntEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

__all__ = [
    "AddressInUse",
    "BackendUnavailable",
    "CredentialsError",
    "ExitCode",
    "ListenError",
    "OutputError",
    "SettingsError",
    "StartError",
    "VerificationFailed",
    "exit_code_of",
]


class ExitCode(IntEnum):
    """Exit codes of the process; supervisors and scripts may rely on the numbers."""

    OK = 0
    """The server drained after SIGTERM, SIGINT or SIGHUP."""
    FAILED = 1
    """An error without its own code."""
    SETTINGS = 2
    """A flag, variable, key or value is wrong."""
    LISTEN = 3
    """An address cannot be bound, and a restart would not help."""
    BACKEND = 4
    """The backend cannot open its device or its kernel."""
    VERIFICATION = 5
    """A gradient of the start-up verification was wrong."""
    FORCED = 6
    """A second signal came while the server drained."""
    NO_WORKERS = 7
    """The supervisor gave up every worker, and not all for the same reason."""
    CREDENTIALS = 8
    """A certificate, key or token file is unusable; renewing it helps."""
    ADDRESS_IN_USE = 9
    """Another process has an address at the moment."""
    RUNTIME_LIBRARY = 10
    """The libraries of the Ascend runtime were not found or do not load."""
    OP_PACKAGE = 11
    """The operator package was not found, or does not belong to this server."""
    DRIVER = 12
    """Driver and toolkit do not match, or the driver is missing."""
    NO_DEVICE = 13
    """The host does not have the device."""
    PERMISSION = 14
    """The user has no permission to open the device."""
    DEVICE_LOST = 15
    """The device failed and no repair helped; a new process may be able to use it."""
    DEVICE_HUNG = 16
    """A call to the device did not return."""
    OUTPUT = 17
    """The requested output cannot be printed: stdout is closed, full or has no reader."""


class StartError(Exception):
    """The process cannot start; the message says what to do.

    Attributes:
        exit_code: The exit code of the process.
    """

    exit_code = ExitCode.FAILED


class SettingsError(StartError):
    """A setting is wrong; the message names it as the user wrote it and says what is allowed."""

    exit_code = ExitCode.SETTINGS


class CredentialsError(StartError):
    """A certificate, key or token file is unusable; the message names the file, never its content."""

    exit_code = ExitCode.CREDENTIALS


class ListenError(StartError):
    """An address cannot be bound."""

    exit_code = ExitCode.LISTEN


class AddressInUse(ListenError):
    """Another process has the address: a server, or an outgoing connection that uses the port."""

    exit_code = ExitCode.ADDRESS_IN_USE


class BackendUnavailable(StartError):
    """The backend cannot open its device or its kernel."""

    exit_code = ExitCode.BACKEND


class VerificationFailed(StartError):
    """A gradient of the start-up verification differs from the formula."""

    exit_code = ExitCode.VERIFICATION


class OutputError(StartError):
    """The requested output cannot be printed."""

    exit_code = ExitCode.OUTPUT


async def exit_code_of(work: Awaitable[ExitCode], log: FilteringBoundLogger) -> ExitCode:
    """Returns the result of `work`, or the exit code of the error that it raises, which is logged."""
    try:
        return await work
    except StartError as error:
        log.error("start_failed", message=str(error), exit_code=int(error.exit_code))
        return error.exit_code
    except Exception:
        log.exception("crashed", exit_code=int(ExitCode.FAILED))
        return ExitCode.FAILED
