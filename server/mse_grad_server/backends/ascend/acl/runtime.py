"""The ACL runtime, and the tensors and executors of aclnn, through ctypes.

Handles are plain addresses. Every status is checked at the call that returns it.

Thread safety: ACL binds a context to a thread, so every call comes from the one device thread.
"""

from __future__ import annotations

import ctypes
from contextlib import suppress
from ctypes import byref, c_float, c_int32, c_size_t, c_uint32, c_void_p
from enum import IntEnum
from pathlib import Path

from mse_grad_server.backends.ascend.acl.declarations import (
    ASCENDCL_PROTOTYPES,
    NNOPBASE_PROTOTYPES,
    OLDER_NAMES,
    OPTIONAL_PROTOTYPES,
)
from mse_grad_server.backends.ascend.acl.error_codes import EVENT_SYNC_TIMEOUT, STREAM_SYNC_TIMEOUT, AclError
from mse_grad_server.backends.ascend.acl.prototypes import Function, find_function, parse_prototypes
from mse_grad_server.backends.edges import OverflowMode

__all__ = ["Acl", "CopyKind", "DataType"]

_FORMAT_ND = 2
# Atlas 200I/500 A2 has only saturation mode. Source: Huawei's document of aclrtFloatOverflowMode.
_SATURATING_CHIPS = "Ascend310B"
_OVERFLOW_MODES = {0: OverflowMode.SATURATION, 1: OverflowMode.INF_NAN}
_REPEATED_INIT = 100002
_HBM = 1
_HUGE_PAGES_FIRST = 0
_STOP_ON_FAILURE = 1
_EVENT_SYNC = 1
_EVENT_TIME_LINE = 8
# aclrtEventRecordedStatus has the opposite order of aclrtStreamStatus.
_EVENT_COMPLETE = 1


class DataType(IntEnum):
    """aclDataType of the dtypes that an NPU computes here."""

    FLOAT = 0
    FLOAT16 = 1
    BF16 = 27


class CopyKind(IntEnum):
    """aclrtMemcpyKind."""

    HOST_TO_DEVICE = 1
    DEVICE_TO_HOST = 2


class Acl:
    """The functions of both libraries that the backend calls.

    Every method but `error_words`, `stamp`, `elapsed_s` and `overflow_mode` raises AclError if its call fails. The
    error has the function, the code and the message of `aclGetRecentErrMsg`.

    Args:
        ascendcl: The library of the runtime.
        nnopbase: The library of tensors and executors.

    Raises:
        AttributeError: A library lacks a function; the message names it.
    """

    def __init__(self, ascendcl: ctypes.CDLL, nnopbase: ctypes.CDLL) -> None:
        self._functions: dict[str, Function] = {}
        for library, text in ((ascendcl, ASCENDCL_PROTOTYPES), (nnopbase, NNOPBASE_PROTOTYPES)):
            for name, prototype in parse_prototypes(text).items():
                self._functions[name] = find_function(library, prototype, *OLDER_NAMES.get(name, ()))
        for name, prototype in parse_prototypes(OPTIONAL_PROTOTYPES).items():
            with suppress(AttributeError):
                self._functions[name] = find_function(ascendcl, prototype)
        # Bound once, because every block calls them: this saves a look-up by name.
        self._memcpy_async = self._functions["aclrtMemcpyAsync"]
        self._record_event = self._functions["aclrtRecordEvent"]
        self._stream_wait_event = self._functions["aclrtStreamWaitEvent"]
        self._query_event = self._functions["aclrtQueryEventStatus"]
        self._elapsed_time = self._functions["aclrtEventElapsedTime"]
        self._is_initialised = False
        self._status = c_int32()
        self._status_pointer = ctypes.pointer(self._status)
        self._elapsed_ms = c_float()
        self._elapsed_pointer = ctypes.pointer(self._elapsed_ms)

    @classmethod
    def load(cls, ascendcl_path: Path, nnopbase_path: Path) -> Acl:
        """Loads the libraries at the paths; raises OSError or AttributeError if one is unfit."""
        # Global symbols: the operator's library expects the symbols of both in the process.
        ascendcl = ctypes.CDLL(str(ascendcl_path), mode=ctypes.RTLD_GLOBAL)
        return cls(ascendcl, ctypes.CDLL(str(nnopbase_path), mode=ctypes.RTLD_GLOBAL))

    def call(self, name: str, *arguments: object) -> None:
        """Calls the function `name` and checks its status."""
        self.check(name, self._functions[name](*arguments))

    def check(self, function: str, code: int) -> None:
        """Raises AclError unless `code` is 0; reads the message at once, because the next call replaces it."""
        if code != 0:
            raise AclError(function, code, self.error_words())

    def error_words(self) -> str:
        """Returns and clears the library's message about its last failure, on one line."""
        words: bytes | None = self._functions["aclGetRecentErrMsg"]()
        return " ".join((words or b"").decode(errors="replace").split())

    def initialise(self) -> None:
        """Starts ACL in this process, unless it runs already."""
        code = self._functions["aclInit"](None)
        if code == _REPEATED_INIT:
            self.error_words()  # or the next failure would report this message
            return
        self.check("aclInit", code)
        self._is_initialised = True

    def finalise(self) -> None:
        """Ends ACL in this process; does nothing if this object did not start it."""
        if self._is_initialised:
            self._is_initialised = False
            self.call("aclFinalize")

    def soc_name(self) -> str:
        """Returns the name of the chip, e.g. "Ascend910B3"."""
        name: bytes | None = self._functions["aclrtGetSocName"]()
        return (name or b"").decode(errors="replace")

    def device_count(self) -> int:
        """Returns how many devices this process may use."""
        count = c_uint32()
        self.call("aclrtGetDeviceCount", byref(count))
        return count.value

    def overflow_mode(self) -> OverflowMode:
        """Returns the overflow mode of the current device; raises nothing, because it is information only."""
        function, mode = self._functions.get("aclrtGetDeviceSatMode"), c_int32()
        if function is not None:
            if function(byref(mode)) == 0:
                return _OVERFLOW_MODES.get(mode.value, OverflowMode.UNKNOWN)
            self.error_words()  # or the next failure would report this message
        return OverflowMode.SATURATION if self.soc_name().startswith(_SATURATING_CHIPS) else OverflowMode.UNKNOWN

    def create_context(self, device: int) -> int:
        """Returns a context on `device`, current in this thread."""
        context = c_void_p()
        self.call("aclrtCreateContext", byref(context), device)
        return _address("aclrtCreateContext", context)

    def create_stream(self) -> int:
        """Returns a stream of the current context."""
        stream = c_void_p()
        self.call("aclrtCreateStream", byref(stream))
        return _address("aclrtCreateStream", stream)

    def stop_on_failure(self, stream: int) -> None:
        """Makes each stream of the context of `stream` skip all tasks behind a failed one."""
        self.call("aclrtSetStreamFailureMode", stream, _STOP_ON_FAILURE)

    def synchronise(self, stream: int, timeout_ms: int) -> None:
        """Waits until everything in `stream` has run; raises a fault of the device."""
        self.call("aclrtSynchronizeStreamWithTimeout", stream, timeout_ms)

    def is_empty(self, stream: int, timeout_ms: int) -> bool:
        """Returns whether everything in `stream` has run within the time; raises the fault that stopped it."""
        code: int = self._functions["aclrtSynchronizeStreamWithTimeout"](stream, timeout_ms)
        if code == STREAM_SYNC_TIMEOUT:
            self.error_words()  # or the next failure would report this message
            return False
        self.check("aclrtSynchronizeStreamWithTimeout", code)
        return True

    def create_event(self) -> int:
        """Returns a reusable event, which orders streams, can be queried by the host and keeps time."""
        event = c_void_p()
        self.call("aclrtCreateEventExWithFlag", byref(event), _EVENT_SYNC | _EVENT_TIME_LINE)
        return _address("aclrtCreateEventExWithFlag", event)

    def record(self, event: int, stream: int) -> None:
        """Queues a record of `event` in `stream`."""
        code = self._record_event(event, stream)
        if code:
            self.check("aclrtRecordEvent", code)

    def make_wait(self, stream: int, event: int) -> None:
        """Queues in `stream` a wait for the last record of `event`; the host does not wait."""
        code = self._stream_wait_event(stream, event)
        if code:
            self.check("aclrtStreamWaitEvent", code)

    def has_happened(self, event: int) -> bool:
        """Returns whether the last record of `event` has run."""
        code = self._query_event(event, self._status_pointer)
        if code:
            self.check("aclrtQueryEventStatus", code)
        return self._status.value == _EVENT_COMPLETE

    def stamp(self, event: int, stream: int) -> bool:
        """Records `event` only for its time; returns whether that worked, and raises nothing."""
        if self._record_event(event, stream) == 0:
            return True
        self.error_words()  # or the next failure would report this message
        return False

    def elapsed_s(self, begin: int, end: int) -> float | None:
        """Returns the device time between the last records of two events, both of which have happened.

        Returns None if the runtime does not know it; raises nothing.
        """
        if self._elapsed_time(self._elapsed_pointer, begin, end) == 0:
            return self._elapsed_ms.value / 1000
        self.error_words()  # or the next failure would report this message
        return None

    def wait_for(self, event: int, timeout_ms: int) -> bool:
        """Waits for the last record of `event`; returns whether it ran within the time."""
        code: int = self._functions["aclrtSynchronizeEventWithTimeout"](event, timeout_ms)
        if code == EVENT_SYNC_TIMEOUT:
            self.error_words()  # or the next failure would report this message
            return False
        self.check("aclrtSynchronizeEventWithTimeout", code)
        return True

    def malloc(self, size_bytes: int) -> int:
        """Allocates device memory, 64-byte aligned, in huge pages if there are some; returns its address."""
        pointer = c_void_p()
        self.call("aclrtMalloc", byref(pointer), size_bytes, _HUGE_PAGES_FIRST)
        return _address("aclrtMalloc", pointer)

    def malloc_host(self, size_bytes: int) -> int:
        """Allocates pinned host memory, 64-byte aligned; returns its address."""
        pointer = c_void_p()
        self.call("aclrtMallocHost", byref(pointer), size_bytes)
        return _address("aclrtMallocHost", pointer)

    def copy_async(self, destination: int, source: int, size_bytes: int, kind: CopyKind, stream: int) -> None:
        """Queues a copy. If the host memory is not pinned, the call returns only after the copy."""
        code = self._memcpy_async(destination, size_bytes, source, size_bytes, kind, stream)
        if code:
            self.check("aclrtMemcpyAsync", code)

    def fill(self, address: int, size_bytes: int, value: int) -> None:
        """Fills device memory with the byte `value`; returns after it."""
        self.call("aclrtMemset", address, size_bytes, value, size_bytes)

    def memory_info(self) -> tuple[int, int]:
        """Returns the free and the total device memory, in bytes."""
        free, total = c_size_t(), c_size_t()
        self.call("aclrtGetMemInfo", _HBM, byref(free), byref(total))
        return free.value, total.value

    def create_tensor(self, elements: int, dtype: DataType) -> int:
        """Returns a one-dimensional aclTensor without an address; it must outlive its executors."""
        dims, stride = (ctypes.c_int64 * 1)(elements), (ctypes.c_int64 * 1)(1)
        tensor: int | None = self._functions["aclCreateTensor"](dims, 1, dtype, stride, 0, _FORMAT_ND, dims, 1, None)
        if tensor is None:
            raise AclError("aclCreateTensor", 0, self.error_words())
        return tensor


def _address(function: str, pointer: c_void_p) -> int:
    if pointer.value is None:
        raise AclError(function, 0, "the handle is null")
    return pointer.value
