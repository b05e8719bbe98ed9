"""Survey of this host's runtime in a separate process, which opens no device.

Side effects of loading the libraries, and their crashes, stay in that process.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass

from mse_grad_server.backends.ascend.startup import errors as start_errors
from mse_grad_server.process.exits import BackendUnavailable, SettingsError, StartError

__all__ = ["Survey", "survey"]

_KINDS: dict[int, type[StartError]] = {
    int(kind.exit_code): kind
    for kind in (
        BackendUnavailable,
        SettingsError,
        start_errors.LibraryNotFound,
        start_errors.OpPackageMissing,
        start_errors.DriverMismatch,
        start_errors.NoDevice,
        start_errors.DevicePermission,
    )
}


@dataclass(frozen=True)
class Survey:
    """Result of a survey. Its errors are those that the server itself would raise at its start.

    Attributes:
        runtime: The error of loading the runtime's libraries, or None.
        operator: The error of loading the operator's library, or None. None as well if the runtime does not load.
        devices: The number of NPUs that a process may use, or the runtime's error. None if the runtime does not load.
    """

    runtime: StartError | None
    operator: StartError | None
    devices: int | StartError | None

    @property
    def device_count(self) -> int:
        """The number of NPUs that a process may use; raises the error if the number is unknown."""
        for found in (self.runtime, self.devices):
            if isinstance(found, StartError):
                raise found
        assert isinstance(self.devices, int)
        return self.devices


def survey(
    runtime_folder: str,
    op_library: str,
    environment: Mapping[str, str],
    *,
    timeout_s: float,
    loads_operator: bool = True,
) -> Survey:
    """Runs a survey and returns its result. The call blocks.

    Args:
        runtime_folder: Folder of the runtime's libraries; "" to find it by the environment.
        op_library: The operator's library; "" to find it by the environment.
        environment: Variables of the process.
        timeout_s: How long the survey may take.
        loads_operator: Whether to load the operator's library too.
    """
    asked = json.dumps([runtime_folder, op_library, loads_operator])
    command = [sys.executable, "-m", "mse_grad_server.backends.ascend.startup.survey_process", asked]
    try:
        ended = subprocess.run(command, env=dict(environment), stdout=subprocess.PIPE, timeout=timeout_s, check=False)
    except subprocess.TimeoutExpired:
        return Survey(BackendUnavailable(f"the runtime did not answer within {timeout_s:g} s"), None, None)
    if ended.returncode != 0:
        why = f"the process that loads the libraries of the runtime ended with code {ended.returncode}"
        return Survey(BackendUnavailable(f"{why}; its last lines say why"), None, None)
    answer = json.loads(ended.stdout)
    devices = answer["devices"]
    return Survey(
        _error(answer["runtime"]), _error(answer["operator"]), devices if isinstance(devices, int) else _error(devices)
    )


def _error(failure: tuple[int, str] | None) -> StartError | None:
    return None if failure is None else _KINDS.get(failure[0], BackendUnavailable)(failure[1])
