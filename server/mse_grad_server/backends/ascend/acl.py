"""The ACL runtime and the tensors and executors of aclnn, through ctypes.

Sources: acl/acl.h, acl/acl_rt.h (libascendcl.so) and aclnn/acl_meta.h (libnnopbase.so) of the toolkit. Handles are
plain addresses. Every status is checked where it is returned.

Thread safety: ACL binds a context to a thread, so every call comes from the one device thread.
"""

from __future__ import annotations

import ctypes
from ctypes import byref, c_float, c_int32, c_size_t, c_uint32, c_void_p
from enum import IntEnum
from pathlib import Path

from mse_grad_server.backends.ascend.faults import EVENT_SYNC_TIMEOUT, STREAM_SYNC_TIMEOUT, AclError
from mse_grad_server.backends.ascend.prototypes import Function, find_function, parse_prototypes

__all__ = ["Acl", "CopyKind", "DataType"]

ASCENDCL_PROTOTYPES = """
int aclInit(const char *configPath)
int aclFinalize(void)
const char *aclGetRecentErrMsg(void)
const char *aclrtGetSocName(void)
int aclrtGetDeviceCount(uint32_t *count)
int aclrtSetDevice(int32_t deviceId)
int aclrtResetDevice(int32_t deviceId)
int aclrtCreateContext(void **context, int32_t deviceId)
int aclrtDestroyContext(void *context)
int aclrtCreateStream(void **stream)
int aclrtSetStreamFailureMode(void *stream, uint64_t mode)
int aclrtDestroyStreamForce(void *stream)
int aclrtSynchronizeStreamWithTimeout(void *stream, int32_t timeout)
int aclrtCreateEventExWithFlag(void **event, uint32_t flag)
int aclrtRecordEvent(void *event, void *stream)
int aclrtStreamWaitEvent(void *stream, void *event)
int aclrtQueryEventStatus(void *event, int *status)
int aclrtSynchronizeEventWithTimeout(void *event, int32_t timeout)
int aclrtEventElapsedTime(float *ms, void *startEvent, void *endEvent)
int aclrtDestroyEvent(void *event)
int aclrtMalloc(void **devPtr, size_t size, int policy)
int aclrtFree(void *devPtr)
int aclrtMallocHost(void **hostPtr, size_t size)
int aclrtFreeHost(void *hostPtr)
int aclrtMemcpyAsync(void *dst, size_t destMax, const void *src, size_t count, int kind, void *stream)
int aclrtMemset(void *devPtr, size_t maxCount, int32_t value, size_t count)
int aclrtGetMemInfo(int attr, size_t *free, size_t *total)
"""

NNOPBASE_PROTOTYPES = """
void *aclCreateTensor(const int64_t *viewDims, uint64_t viewDimsNum, int dataType, const int64_t *stride, \
int64_t offset, int format, const int64_t *storageDims, uint64_t storageDimsNum, void *tensorData)
int aclDestroyTensor(const void *tensor)
int aclSetAclOpExecutorRepeatable(void *executor)
int aclDestroyAclOpExecutor(void *executor)
int aclSetInputTensorAddr(void *executor, size_t index, void *tensor, void *addr)
int aclSetOutputTensorAddr(void *executor, size_t index, void *tensor, void *addr)
"""

# Older toolkits spell the setters with a capital A.
_OLDER_NAMES = {
    "aclSetInputTensorAddr": ("AclSetInputTensorAddr",),
    "aclSetOutputTensorAddr": ("AclSetOutputTensorAddr",),
}

_FORMAT_ND = 2
_REPEATED_INIT = 100002
_HBM = 1
_HUGE_PAGES_FIRST = 0
_STOP_ON_FAILURE = 1
_EVENT_SYNC = 1
_EVENT_TIME_LINE = 8
# aclrtEventRecordedStatus counts the other way round than aclrtStreamStatus.
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
    """The functions of both libraries that the backend calls, each checked.

    Raises (from every method but `error_words`):
        AclError: The call failed; it carries the function, the code and what `aclGetRecentErrMsg` said.
    """

    def __init__(self, ascendcl: ctypes.CDLL, nnopbase: ctypes.CDLL) -> None:
        """Finds every function; raises AttributeError naming the one that a library lacks."""
        self._functions: dict[str, Function] = {}
        for library, text in ((ascendcl, ASCENDCL_PROTOTYPES), (nnopbase, NNOPBASE_PROTOTYPES)):
            for name, prototype in parse_prototypes(text).items():
                self._functions[name] = find_function(library, prototype, *_OLDER_NAMES.get(name, ()))
        # Called for every block: bound once, they spare a look-up by name.
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
        """Returns the functions of the libraries at the paths; raises OSError or AttributeError where one is unfit."""
        # Global symbols: the operator's library expects those of both in the process.
        ascendcl = ctypes.CDLL(str(ascendcl_path), mode=ctypes.RTLD_GLOBAL)
        return cls(ascendcl, ctypes.CDLL(str(nnopbase_path), mode=ctypes.RTLD_GLOBAL))

    def call(self, name: str, *arguments: object) -> None:
        """Calls the function `name` and checks its status."""
        self.check(name, self._functions[name](*arguments))

    def check(self, function: str, code: int) -> None:
        """Raises AclError unless `code` is 0; reads the words at once, since the next call replaces them."""
        if code != 0:
            raise AclError(function, code, self.error_words())

    def error_words(self) -> str:
        """Returns what the library said about its last failure, on one line."""
        words: bytes | None = self._functions["aclGetRecentErrMsg"]()
        return " ".join((words or b"").decode(errors="replace").split())

    def initialise(self) -> None:
        """Starts ACL in this process, unless somebody else has."""
        code = self._functions["aclInit"](None)
        if code == _REPEATED_INIT:
            self.error_words()  # which would otherwise be said of the next failure
            return
        self.check("aclInit", code)
        self._is_initialised = True

    def finalise(self) -> None:
        """Ends ACL in this process; does nothing where it was not started here."""
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
        """Makes `stream`, and with it every stream of its context, run nothing behind a task that failed."""
        self.call("aclrtSetStreamFailureMode", stream, _STOP_ON_FAILURE)

    def synchronise(self, stream: int, timeout_ms: int) -> None:
        """Waits until everything in `stream` ran; a fault of the device shows here."""
        self.call("aclrtSynchronizeStreamWithTimeout", stream, timeout_ms)

    def is_empty(self, stream: int, timeout_ms: int) -> bool:
        """Returns whether everything in `stream` ran within the time; raises the fault that stopped it."""
        code: int = self._functions["aclrtSynchronizeStreamWithTimeout"](stream, timeout_ms)
        if code == STREAM_SYNC_TIMEOUT:
            self.error_words()  # which would otherwise be said of the next failure
            return False
        self.check("aclrtSynchronizeStreamWithTimeout", code)
        return True

    def create_event(self) -> int:
        """Returns an event that may be recorded again and again: it orders streams, tells the host, and keeps time."""
        event = c_void_p()
        self.call("aclrtCreateEventExWithFlag", byref(event), _EVENT_SYNC | _EVENT_TIME_LINE)
        return _address("aclrtCreateEventExWithFlag", event)

    def record(self, event: int, stream: int) -> None:
        """Queues in `stream` that `event` has happened."""
        code = self._record_event(event, stream)
        if code:
            self.check("aclrtRecordEvent", code)

    def make_wait(self, stream: int, event: int) -> None:
        """Queues in `stream` a wait for the last record of `event`; the host does not wait."""
        code = self._stream_wait_event(stream, event)
        if code:
            self.check("aclrtStreamWaitEvent", code)

    def has_happened(self, event: int) -> bool:
        """Returns whether the last record of `event` ran."""
        code = self._query_event(event, self._status_pointer)
        if code:
            self.check("aclrtQueryEventStatus", code)
        return self._status.value == _EVENT_COMPLETE

    def elapsed_s(self, begin: int, end: int) -> float:
        """Returns the time of the device between the last records of two events, both of which have happened."""
        code = self._elapsed_time(self._elapsed_pointer, begin, end)
        if code:
            self.check("aclrtEventElapsedTime", code)
        return self._elapsed_ms.value / 1000

    def wait_for(self, event: int, timeout_ms: int) -> bool:
        """Waits for the last record of `event`; returns whether it came within the time."""
        code: int = self._functions["aclrtSynchronizeEventWithTimeout"](event, timeout_ms)
        if code == EVENT_SYNC_TIMEOUT:
            self.error_words()  # which would otherwise be said of the next failure
            return False
        self.check("aclrtSynchronizeEventWithTimeout", code)
        return True

    def malloc(self, size_bytes: int) -> int:
        """Returns the address of device memory, 64-byte aligned, in huge pages where there are some."""
        pointer = c_void_p()
        self.call("aclrtMalloc", byref(pointer), size_bytes, _HUGE_PAGES_FIRST)
        return _address("aclrtMalloc", pointer)

    def malloc_host(self, size_bytes: int) -> int:
        """Returns the address of pinned host memory, 64-byte aligned."""
        pointer = c_void_p()
        self.call("aclrtMallocHost", byref(pointer), size_bytes)
        return _address("aclrtMallocHost", pointer)

    def copy_async(self, destination: int, source: int, size_bytes: int, kind: CopyKind, stream: int) -> None:
        """Queues a copy; host memory must be pinned, or the call returns only after the copy."""
        code = self._memcpy_async(destination, size_bytes, source, size_bytes, kind, stream)
        if code:
            self.check("aclrtMemcpyAsync", code)

    def fill(self, address: int, size_bytes: int, value: int) -> None:
        """Writes the byte `value` to device memory, before it returns."""
        self.call("aclrtMemset", address, size_bytes, value, size_bytes)

    def memory_info(self) -> tuple[int, int]:
        """Returns the free and the total device memory, in bytes."""
        free, total = c_size_t(), c_size_t()
        self.call("aclrtGetMemInfo", _HBM, byref(free), byref(total))
        return free.value, total.value

    def create_tensor(self, elements: int, dtype: DataType) -> int:
        """Returns the description of a one-dimensional tensor without an address; it must outlive its executors."""
        dims, stride = (ctypes.c_int64 * 1)(elements), (ctypes.c_int64 * 1)(1)
        tensor: int | None = self._functions["aclCreateTensor"](dims, 1, dtype, stride, 0, _FORMAT_ND, dims, 1, None)
        if tensor is None:
            raise AclError("aclCreateTensor", 0, self.error_words())
        return tensor


def _address(function: str, pointer: c_void_p) -> int:
    if pointer.value is None:
        raise AclError(function, 0, "the handle is null")
    return pointer.value
