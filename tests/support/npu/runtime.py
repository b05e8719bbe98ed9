"""The simulated ACL runtime, unknown to the backend that uses it: options, faults on demand, counts, accounts."""

from __future__ import annotations

import ctypes
import json
from collections.abc import Iterator
from contextlib import contextmanager
from ctypes import c_char_p, c_int32, c_uint64
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Accounts", "AscendRuntime"]

_DEFAULTS = {
    "devices": "1",
    "memory_bytes": "0",
    "pinned_bytes": "0",
    "copy_in_us": "-1",
    "kernel_us": "-1",
    "copy_out_us": "-1",
    "pace": "0",
    "overflow": "inf_nan",
    "chip": "Ascend910B3",
}


@dataclass(frozen=True)
class Accounts:
    """The resources that the simulator accounts for.

    Attributes:
        living: Resource -> number of living ones: contexts, streams, events, device_memory, pinned_memory, tensors,
            executors.
        reclaimed: Resources that a reset of the device took back.
        violations: Mistakes that a device would not have forgiven.
        elapsed_us: Virtual time from the first task to the end of the last.
        busy_us: Virtual time of the tasks of each stage: copy_in, kernel, copy_out.
        calls: Function -> how often it was called.
    """

    living: dict[str, int]
    reclaimed: int
    violations: list[str]
    elapsed_us: float
    busy_us: dict[str, float]
    calls: dict[str, int]

    @classmethod
    def parse(cls, text: str | bytes) -> Accounts:
        """Parses a report of the simulator."""
        report: dict[str, Any] = json.loads(text)
        time = report["virtual_time"]
        return cls(
            report["living"], report["reclaimed"], report["violations"], time["elapsed_us"], time["busy_us"],
            report["calls"],
        )  # fmt: skip


class AscendRuntime:
    """The runtime of this process; see tests/simulator/include/simulator/ascend_simulator.h.

    Args:
        folder: Folder of the simulator's libraries.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.op_library = folder / "libcust_opapi.so"
        library = ctypes.CDLL(str(folder / "libacl_rt.so"), mode=ctypes.RTLD_GLOBAL)
        self._set = _function(library, "AscendSimulatorSet", c_int32, c_char_p, c_char_p)
        self._add_faults = _function(library, "AscendSimulatorAddFaults", c_int32, c_char_p)
        self._clear_faults = _function(library, "AscendSimulatorClearFaults", None)
        self._calls = _function(library, "AscendSimulatorCalls", c_uint64, c_char_p)
        self._accounts = _function(library, "AscendSimulatorAccounts", c_char_p)
        self._restart_time = _function(library, "AscendSimulatorRestartTime", None)
        self._text = _function(library, "AscendSimulatorText", c_char_p)

    @contextmanager
    def options(self, **values: object) -> Iterator[None]:
        """Changes options within the `with`; their names are those of tests/simulator/src/acl/options.h."""
        try:
            for name, value in values.items():
                self._change(name, str(value))
            yield
        finally:
            for name in values:
                self._change(name, _DEFAULTS[name])

    @contextmanager
    def faults(self, text: str) -> Iterator[None]:
        """Makes calls fail within the `with`; tests/simulator/src/acl/faults.h defines the syntax of a fault."""
        self.add_faults(text)
        try:
            yield
        finally:
            self._clear_faults()

    def add_faults(self, text: str) -> None:
        """Makes calls fail until `clear_faults`; raises ValueError for a fault that is none."""
        if self._add_faults(text.encode()) != 0:
            raise ValueError(self._text().decode())

    def clear_faults(self) -> None:
        """Lets calls succeed again before the `with` ends."""
        self._clear_faults()

    def calls(self, function: str) -> int:
        """Returns how often `function` was called."""
        count: int = self._calls(function.encode())
        return count

    def accounts(self) -> Accounts:
        """Returns the current accounts."""
        return Accounts.parse(self._accounts())

    def restart_time(self) -> None:
        """Restarts the count of virtual time."""
        self._restart_time()

    def _change(self, name: str, value: str) -> None:
        if self._set(name.encode(), value.encode()) != 0:
            raise ValueError(self._text().decode())


def _function(library: ctypes.CDLL, name: str, result: Any, *arguments: Any) -> Any:
    function = getattr(library, name)
    function.restype = result
    function.argtypes = arguments
    return function
