"""A context with streams and memory on the simulated runtime, for tests of the runtime itself."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from mse_grad.tensor import Reduction
from mse_grad_server.backends.ascend.acl.error_codes import AclError
from mse_grad_server.backends.ascend.acl.operator import OpApi
from mse_grad_server.backends.ascend.acl.runtime import Acl, CopyKind, DataType
from support.npu.runtime import AscendRuntime

__all__ = ["DEVICE", "IN", "OUT", "PATIENCE_MS", "SIZE_BYTES", "Bench", "code_of", "fails", "forget", "planned"]

DEVICE = 1
IN, OUT = CopyKind.HOST_TO_DEVICE, CopyKind.DEVICE_TO_HOST
SIZE_BYTES = 4096
PATIENCE_MS = 20_000


class Bench:
    """A context with memory on a device of the simulator, in the thread of the test."""

    def __init__(self, acl: Acl, runtime: AscendRuntime) -> None:
        self.acl = acl
        self.opapi = OpApi.load(runtime.op_library, acl)
        self.library = ctypes.CDLL(str(runtime.folder / "libacl_rt.so"))
        self.context = acl.create_context(DEVICE)
        self.host = acl.malloc_host(SIZE_BYTES)
        self.device = acl.malloc(SIZE_BYTES)
        self.streams: list[int] = []
        self.events: list[int] = []

    def stream(self, *, stops: bool = False) -> int:
        self.streams.append(self.acl.create_stream())
        if stops:
            self.acl.stop_on_failure(self.streams[-1])
        return self.streams[-1]

    def event(self) -> int:
        self.events.append(self.acl.create_event())
        return self.events[-1]

    def write(self, value: int) -> None:
        ctypes.memset(self.host, value, SIZE_BYTES)

    def read(self) -> set[int]:
        return set(ctypes.string_at(self.host, SIZE_BYTES))

    def copy(self, kind: CopyKind, stream: int) -> None:
        ends = (self.device, self.host) if kind is IN else (self.host, self.device)
        self.acl.copy_async(*ends, SIZE_BYTES, kind, stream)

    def wait(self, stream: int) -> None:
        self.acl.synchronise(stream, PATIENCE_MS)

    def allocate(self) -> None:
        self.acl.call("aclrtFree", self.acl.malloc(64))

    def make_current(self) -> None:
        assert self.library.aclrtSetCurrentContext(ctypes.c_void_p(self.context)) == 0

    def close(self) -> None:
        for stream in self.streams:
            self.acl.call("aclrtDestroyStreamForce", stream)
        for event in self.events:
            self.acl.call("aclrtDestroyEvent", event)
        self.acl.call("aclrtFree", self.device)
        self.acl.call("aclrtFreeHost", self.host)
        self.acl.call("aclrtDestroyContext", self.context)


@contextmanager
def fails(code: int) -> Iterator[None]:
    """Asserts that the body of the `with` raises AclError with this code and a message."""
    with pytest.raises(AclError) as raised:
        yield
    assert raised.value.code == code
    assert raised.value.words


def code_of(call: Callable[[], None]) -> int:
    """Returns the code of the AclError that `call` raises, or 0."""
    try:
        call()
    except AclError as error:
        return error.code
    return 0


def planned(bench: Bench, elements: int) -> tuple[int, list[int]]:
    """Returns a repeatable executor of MseLossGradPart on float32 and its tensors, for `forget`.

    Its operands and y are the four quarters of the bench's device memory; `elements` at most 256.
    """
    tensors = [bench.acl.create_tensor(elements, DataType.FLOAT) for _ in range(4)]
    predict, label, dout, y = tensors
    executor, _ = bench.opapi.plan((predict, label, dout, y), Reduction.SUM, elements)
    bench.acl.call("aclSetAclOpExecutorRepeatable", executor)
    for index in range(3):
        bench.acl.call("aclSetInputTensorAddr", executor, index, tensors[index], bench.device + 1024 * index)
    bench.acl.call("aclSetOutputTensorAddr", executor, 0, y, bench.device + 3072)
    return executor, tensors


def forget(bench: Bench, executor: int, tensors: list[int]) -> None:
    """Destroys what `planned` returned."""
    bench.acl.call("aclDestroyAclOpExecutor", executor)
    for tensor in tensors:
        bench.acl.call("aclDestroyTensor", tensor)
