"""What the error codes of ACL mean for the service.

Source: the public error tables of the ACL runtime and of aclnn. What each code says about the state of the device is
read from their descriptions, and to be confirmed on hardware.
"""

from __future__ import annotations

from enum import Enum

__all__ = ["EVENT_SYNC_TIMEOUT", "STREAM_SYNC_TIMEOUT", "AclError", "Fault", "PlanError", "fault_of"]

STREAM_SYNC_TIMEOUT = 507046
EVENT_SYNC_TIMEOUT = 507047


class Fault(Enum):
    """What has to happen before the next request can succeed, mildest first."""

    CALLER = "caller"  # this service called wrongly: nothing on the device is to be repaired
    MEMORY = "memory"  # no room now: giving executors back, or waiting, may help
    TIMEOUT = "timeout"  # a wait ran out; what was waited for may be stuck
    EXECUTION = "execution"  # a core faulted: streams and context have to be rebuilt
    DEVICE = "device"  # the device itself is gone or poisoned: it has to be reset
    UNKNOWN = "unknown"  # a code that no table names


class AclError(Exception):
    """A call of ACL or aclnn failed.

    Attributes:
        function: Name of the C function.
        code: What it returned; 0 where it returned no handle.
        words: What `aclGetRecentErrMsg` said, on one line; "" for nothing.
        fault: What that means.
    """

    def __init__(self, function: str, code: int, words: str) -> None:
        what = f"returned {code} ({_NAMES.get(code, 'a code not in the tables')})" if code else "gave nothing"
        super().__init__(f"{function} {what}{': ' if words else ''}{words}")
        self.function = function
        self.code = code
        self.words = words
        self.fault = fault_of(code)


class PlanError(AclError):
    """The operator could not be planned for one kind of launch; nothing was queued, and other kinds may be fine."""


_CALLER = {
    100000: "invalid parameter",
    100001: "not initialised",
    100002: "initialised twice",
    107000: "invalid parameter",
    107001: "invalid device",
    107002: "no context in this thread",
    107003: "stream of another context",
    107017: "invalid handle",
    161001: "null parameter",
    161002: "invalid parameter",
    207006: "no permission",
    561000: "error inside aclnn",
    561001: "shape inference failed",
    561002: "tiling failed",
    561003: "no kernel binary for this input",
    561107: "ASCEND_OPP_PATH not found",
    561112: "kernel package not found",
}
_MEMORY = {
    200000: "out of memory",
    207001: "out of memory",
    207005: "out of a resource",
    207007: "out of events",
    207008: "out of streams",
    207018: "out of device memory",
}
_TIMEOUT = {
    107019: "a wait timed out",
    107020: "a task timed out",
    507012: "no report of the task scheduler",
    507014: "AI core timed out",
    507034: "vector core timed out",
    STREAM_SYNC_TIMEOUT: "waiting for the stream timed out",
    EVENT_SYNC_TIMEOUT: "waiting for the event timed out",
}
_EXECUTION = {
    107022: "the tasks of the device are being aborted",
    107023: "the stream is being aborted",
    361001: "runtime error under aclnn",
    507000: "internal error of the runtime",
    507001: "internal error of the task scheduler",
    507013: "DMA error",
    507015: "AI core exception",
    507016: "AI core trap",
    507035: "vector core exception",
    507036: "vector core trap",
    507042: "AI core trap: read past the end",
    507043: "AI core trap: write past the end",
    507044: "vector core trap: read past the end",
    507045: "vector core trap: write past the end",
}
_DEVICE = {
    207004: "no device",
    507010: "heartbeat lost",
    507033: "the device did not start",
    507053: "uncorrectable memory error",
    507054: "multi-bit ECC error",
    507055: "suspected memory error",
    507056: "link between devices lost",
    507057: "suspected memory error of another device",
    507899: "driver error",
    507901: "link to the device lost",
}

_TABLES = {
    Fault.CALLER: _CALLER,
    Fault.MEMORY: _MEMORY,
    Fault.TIMEOUT: _TIMEOUT,
    Fault.EXECUTION: _EXECUTION,
    Fault.DEVICE: _DEVICE,
}
_FAULTS = {code: fault for fault, table in _TABLES.items() for code in table}
_NAMES = {code: name for table in _TABLES.values() for code, name in table.items()}


def fault_of(code: int) -> Fault:
    """Returns what `code` means."""
    return _FAULTS.get(code, Fault.UNKNOWN)
