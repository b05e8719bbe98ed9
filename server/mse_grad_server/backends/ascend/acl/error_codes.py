"""Error codes of ACL and aclnn, and the kind of fault that each stands for.

Sources: rt_error_codes.h and acl_base_rt.h of the runtime, and the table of return codes of opbase. The state of the
device behind each code is read from its description; hardware has yet to confirm it.
"""

from __future__ import annotations

from enum import Enum

__all__ = ["EVENT_SYNC_TIMEOUT", "STREAM_SYNC_TIMEOUT", "AclError", "Fault", "PlanError", "WrongGradient", "fault_of"]

STREAM_SYNC_TIMEOUT = 507046
EVENT_SYNC_TIMEOUT = 507047


class Fault(Enum):
    """Kinds of faults, by the repair that must come before the next request can succeed; mildest first."""

    CALLER = "caller"  # this service made a wrong call: the device needs no repair
    MEMORY = "memory"  # no memory now: freeing executors, or waiting, may help
    TIMEOUT = "timeout"  # a wait timed out: the stream or event may be stuck
    EXECUTION = "execution"  # a core faulted: streams and context must be rebuilt
    DEVICE = "device"  # the device is gone or poisoned: it must be reset
    UNKNOWN = "unknown"  # no table has the code


class AclError(Exception):
    """A call of ACL or aclnn failed.

    Attributes:
        function: Name of the C function.
        code: The status that it returned; 0 if it returned a null handle.
        words: The message of `aclGetRecentErrMsg`, on one line; "" if there was none.
        fault: The kind of fault that the code stands for.
    """

    def __init__(self, function: str, code: int, words: str) -> None:
        what = f"returned {code} ({_NAMES.get(code, 'a code not in the tables')})" if code else "gave nothing"
        super().__init__(f"{function} {what}{': ' if words else ''}{words}")
        self.function = function
        self.code = code
        self.words = words
        self.fault = fault_of(code)


class PlanError(AclError):
    """The operator could not be planned for one kind of launch. Nothing was queued, and other kinds may work."""


class WrongGradient(Exception):
    """The device computed a wrong gradient.

    Attributes:
        fault: The kind of fault that this counts as: only a reset makes the device trustworthy again.
    """

    fault = Fault.DEVICE


_CALLER = {
    100000: "invalid parameter",
    100001: "not initialised",
    100002: "initialised twice",
    100039: "the libraries are the toolkit's stubs for compiling",
    107000: "invalid parameter",
    107001: "invalid device",
    107002: "no context in this thread",
    107003: "stream of another context",
    107006: "an event that was not recorded, or keeps no time",
    107007: "time stamps in the wrong order",
    107017: "invalid handle",
    161001: "null parameter",
    161002: "invalid parameter",
    207000: "not supported here",
    207003: "overflow in an AI core",
    207006: "no permission",
    207016: "overflow in a vector core",
    207017: "overflow",
    561000: "error inside aclnn",
    561001: "shape inference failed",
    561002: "tiling failed",
    561003: "no kernel binary for this input",
    561101: "no executor could be made",
    561102: "the executor was not handed over",
    561103: "null pointer inside aclnn",
    561104: "wrong number of attributes",
    561105: "two kernels of one key",
    561106: "invalid implementation mode",
    561107: "ASCEND_OPP_PATH not found",
    561108: "the kernel's description cannot be read",
    561109: "the kernel's description lacks a field",
    561110: "the kernel's description has an invalid format",
    561111: "the kernel's description has an invalid dtype",
    561112: "kernel package not found",
    561113: "the kernel's description is invalid",
    561114: "more attributes than the kernel's description has",
    561115: "fewer attributes than the kernel's description has",
    561116: "too many inputs in the kernel's description",
    561117: "the kernel's description is incomplete",
    561118: "the kernel's description has an invalid workspace",
    561119: "the kernel's description has an invalid number of cores",
}
_MEMORY = {
    200000: "out of memory",
    207001: "out of memory",
    207005: "out of a resource",
    207007: "out of events",
    207008: "out of streams",
    207018: "out of device memory",
    507002: "the stream is full of tasks",
}
_TIMEOUT = {
    107019: "a wait timed out",
    107020: "a task timed out",
    507012: "no report of the task scheduler",
    507014: "AI core timed out",
    507034: "vector core timed out",
    STREAM_SYNC_TIMEOUT: "waiting for the stream timed out",
    EVENT_SYNC_TIMEOUT: "waiting for the event timed out",
    507048: "a chain of tasks (FFTS+) timed out",
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
    507049: "exception in a chain of tasks (FFTS+)",
    507050: "trap in a chain of tasks (FFTS+)",
}
_DEVICE = {
    207004: "no device",
    500004: "driver error",
    507008: "the runtime does not know this chip",
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
    """Returns the kind of fault that `code` stands for."""
    return _FAULTS.get(code, Fault.UNKNOWN)
