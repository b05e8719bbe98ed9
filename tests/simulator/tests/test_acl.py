"""The C functions around a launch: their results, and the codes of their refusals."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Iterator
from ctypes import byref, c_int64, c_uint32, c_uint64, c_void_p
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from mse_grad.tensor import Array
from support.npu.device_abi import load_ascendcl, load_nnopbase, load_opapi
from support.npu.simulator import Simulator
from support.numerics.compute import formula_compute

INVALID_PARAMETER, INVALID_DEVICE, NO_CONTEXT, FOREIGN_STREAM = 107000, 107001, 107002, 107003
REPEATED_INIT, OUT_OF_MEMORY = 100002, 207001
NULL, INVALID, RUNTIME = 161001, 161002, 361001
TO_DEVICE, TO_HOST = 1, 2
HUGE_FIRST, FLOAT, ND = 0, 0, 2
COUNT = 1000


@dataclass(frozen=True)
class Libraries:
    acl: ctypes.CDLL
    base: ctypes.CDLL
    api: ctypes.CDLL


@pytest.fixture
def c(libraries: Path, simulator: Simulator) -> Iterator[Libraries]:
    """The libraries, of which `simulator` holds device 0."""
    assert simulator.soc_name
    loaded = Libraries(load_ascendcl(libraries), load_nnopbase(libraries), load_opapi(libraries))
    yield loaded
    said(loaded)  # clears the messages of the calls that were meant to fail


@pytest.fixture
def stream(c: Libraries) -> Iterator[c_void_p]:
    handle = c_void_p()
    assert c.acl.aclrtCreateStream(byref(handle)) == 0
    yield handle
    assert c.acl.aclrtDestroyStream(handle) == 0


class Operand:
    """Floats on the device and a tensor for them."""

    def __init__(self, c: Libraries, values: Array) -> None:
        self._c = c
        self.values = values
        self.address = c_void_p()
        assert c.acl.aclrtMalloc(byref(self.address), values.nbytes, HUGE_FIRST) == 0
        self.upload(values)
        self.tensor = create(c, values.shape, self.address)

    def upload(self, values: Array) -> None:
        code = self._c.acl.aclrtMemcpy(self.address, values.nbytes, values.ctypes.data, values.nbytes, TO_DEVICE)
        assert code == 0

    def download(self) -> Array:
        values = np.empty_like(self.values)
        code = self._c.acl.aclrtMemcpy(values.ctypes.data, values.nbytes, self.address, values.nbytes, TO_HOST)
        assert code == 0
        return values

    def free(self) -> None:
        assert self._c.base.aclDestroyTensor(self.tensor) == 0
        assert self._c.acl.aclrtFree(self.address) == 0


def create(
    c: Libraries,
    shape: tuple[int, ...],
    address: c_void_p | None,
    *,
    strides: tuple[int, ...] | None = None,
    layout: int = ND,
    dtype: int = FLOAT,
) -> int:
    dims = (c_int64 * len(shape))(*shape)
    steps = None if strides is None else (c_int64 * len(strides))(*strides)
    tensor = c.base.aclCreateTensor(dims, len(shape), dtype, steps, 0, layout, dims, len(shape), address)
    assert tensor is not None
    return int(tensor)


@pytest.fixture
def operands(c: Libraries) -> Iterator[list[Operand]]:
    """Predict, label, dout and y."""
    rng = np.random.default_rng(23)
    made = [Operand(c, rng.standard_normal(COUNT).astype(np.float32)) for _ in range(4)]
    yield made
    for operand in made:
        operand.free()


def prepare(c: Libraries, tensors: list[int | None]) -> tuple[int, c_void_p, c_uint64]:
    workspace_bytes, executor = c_uint64(99), c_void_p()
    code = c.api.aclnnMseLossGradGetWorkspaceSize(
        *tensors[:3], None, tensors[3], byref(workspace_bytes), byref(executor)
    )
    return code, executor, workspace_bytes


def tensors_of(operands: list[Operand]) -> list[int | None]:
    return [operand.tensor for operand in operands]


def said(c: Libraries) -> str:
    message: bytes | None = c.acl.aclGetRecentErrMsg()
    return "" if message is None else message.decode()


def expected(operands: list[Operand]) -> Array:
    predict, label, dout = (operand.values for operand in operands[:3])
    return formula_compute(predict, label, dout, "mean")


def test_an_executor_runs_once(c: Libraries, stream: c_void_p, operands: list[Operand]) -> None:
    code, executor, workspace_bytes = prepare(c, tensors_of(operands))
    assert (code, workspace_bytes.value) == (0, 0)
    assert c.api.aclnnMseLossGrad(None, 0, executor, stream) == 0
    assert c.acl.aclrtSynchronizeStream(stream) == 0
    assert operands[3].download().tobytes() == expected(operands).tobytes()
    assert c.api.aclnnMseLossGrad(None, 0, executor, stream) == INVALID
    assert "one that is not repeatable ends with its first run" in said(c)


@pytest.mark.parametrize("spelling", ["acl", "Acl"])
def test_a_repeatable_executor_takes_new_addresses(
    c: Libraries, stream: c_void_p, operands: list[Operand], spelling: str
) -> None:
    set_input = getattr(c.base, f"{spelling}SetInputTensorAddr")
    set_output = getattr(c.base, f"{spelling}SetOutputTensorAddr")
    tensors: list[int | None] = [create(c, (COUNT,), None) for _ in range(4)]
    code, executor, _ = prepare(c, tensors)
    assert code == 0
    assert c.base.aclSetAclOpExecutorRepeatable(executor) == 0
    for step in range(3):
        operands[0].values[:] += step
        operands[0].upload(operands[0].values)
        for index in range(3):
            assert set_input(executor, index, tensors[index], operands[index].address) == 0
        assert set_output(executor, 0, tensors[3], operands[3].address) == 0
        assert c.api.aclnnMseLossGrad(None, 0, executor, stream) == 0
        assert c.acl.aclrtSynchronizeStream(stream) == 0
        assert operands[3].download().tobytes() == expected(operands).tobytes()
    assert set_input(executor, 3, tensors[0], operands[0].address) == INVALID
    assert set_output(executor, 1, tensors[3], operands[3].address) == INVALID
    assert set_input(executor, 0, None, operands[0].address) == NULL
    assert c.base.aclDestroyAclOpExecutor(executor) == 0
    assert c.base.aclDestroyAclOpExecutor(executor) == INVALID
    for tensor in tensors:
        assert c.base.aclDestroyTensor(tensor) == 0


def test_without_memory_a_launch_faults_when_the_stream_is_synchronised(c: Libraries) -> None:
    stream = c_void_p()
    assert c.acl.aclrtCreateStream(byref(stream)) == 0
    tensors: list[int | None] = [create(c, (COUNT,), None) for _ in range(4)]
    code, executor, _ = prepare(c, tensors)
    assert code == 0
    assert c.api.aclnnMseLossGrad(None, 0, executor, stream) == 0
    assert c.acl.aclrtSynchronizeStream(stream) == 507035
    assert "fault: mse_loss_grad: block 0, pipe MTE2, call 1 (DataCopyPad)" in said(c)
    assert said(c) == "", "the text is given once"
    assert c.acl.aclrtSynchronizeStream(stream) == 507035, "a stream that failed stays so"
    assert c.acl.aclrtDestroyStream(stream) == 0
    for tensor in tensors:
        assert c.base.aclDestroyTensor(tensor) == 0


@pytest.mark.parametrize("missing", range(4))
def test_a_missing_tensor_is_null(c: Libraries, operands: list[Operand], missing: int) -> None:
    tensors = tensors_of(operands)
    tensors[missing] = None
    assert prepare(c, tensors)[0] == NULL
    assert f"{['predict', 'label', 'dout', 'y'][missing]} is null" in said(c)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda c: create(c, (COUNT,), None, strides=(2,)), "predict is not contiguous"),
        (lambda c: create(c, (COUNT,), None, layout=0), "predict has format 0; it must be ND (2)"),
        (lambda c: create(c, (COUNT,), None, dtype=11), "does not support the dtypes 11, 0, 0, 0 together"),
    ],
)
def test_a_tensor_that_the_operator_refuses_is_invalid(
    c: Libraries, operands: list[Operand], make: Callable[[Libraries], int], text: str
) -> None:
    odd = make(c)
    code, _, _ = prepare(c, [odd, *tensors_of(operands)[1:]])
    assert code == INVALID
    assert text in said(c)
    assert c.base.aclDestroyTensor(odd) == 0


def test_strides_of_one_element_do_not_matter(c: Libraries, operands: list[Operand]) -> None:
    column = create(c, (COUNT, 1), None, strides=(1, 77))
    code, executor, _ = prepare(c, [column] * 4)
    assert code == 0, said(c)
    assert c.base.aclDestroyAclOpExecutor(executor) == 0
    assert c.base.aclDestroyTensor(column) == 0
    assert operands


def test_a_destroyed_tensor_is_refused(c: Libraries, operands: list[Operand]) -> None:
    gone = create(c, (COUNT,), None)
    assert c.base.aclDestroyTensor(gone) == 0
    assert c.base.aclDestroyTensor(gone) == INVALID
    assert prepare(c, [gone, *tensors_of(operands)[1:]])[0] == INVALID


def test_a_thread_without_a_context_is_refused(c: Libraries, stream: c_void_p, operands: list[Operand]) -> None:
    code, executor, _ = prepare(c, tensors_of(operands))
    assert code == 0
    codes: dict[str, int] = {}

    def work() -> None:
        memory = c_void_p()
        codes["malloc"] = c.acl.aclrtMalloc(byref(memory), 64, HUGE_FIRST)
        codes["synchronise"] = c.acl.aclrtSynchronizeStream(stream)
        codes["run"] = c.api.aclnnMseLossGrad(None, 0, executor, stream)
        codes["set"] = c.acl.aclrtSetDevice(0)
        codes["synchronise then"] = c.acl.aclrtSynchronizeStream(stream)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert codes == {
        "malloc": NO_CONTEXT,
        "synchronise": NO_CONTEXT,
        "run": RUNTIME,
        "set": 0,
        "synchronise then": 0,
    }
    assert c.base.aclDestroyAclOpExecutor(executor) == 0


def test_a_stream_of_another_context_is_refused(c: Libraries, stream: c_void_p) -> None:
    codes: list[int] = []

    def work() -> None:
        context = c_void_p()
        codes.append(c.acl.aclrtCreateContext(byref(context), 0))
        codes.append(c.acl.aclrtSynchronizeStream(stream))
        codes.append(c.acl.aclrtDestroyContext(context))
        codes.append(c.acl.aclrtSetCurrentContext(context))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert codes == [0, FOREIGN_STREAM, 0, INVALID_PARAMETER]


def test_devices_memory_and_copies_are_checked(c: Libraries) -> None:
    count, memory = c_uint32(), c_void_p()
    assert c.acl.aclrtGetDeviceCount(byref(count)) == 0
    assert c.acl.aclrtSetDevice(count.value) == INVALID_DEVICE
    assert c.acl.aclInit(None) == REPEATED_INIT
    assert c.acl.aclrtMalloc(byref(memory), 0, HUGE_FIRST) == INVALID_PARAMETER
    assert c.acl.aclrtMalloc(byref(memory), 2**40, HUGE_FIRST) == OUT_OF_MEMORY
    assert c.acl.aclrtMalloc(byref(memory), 100, HUGE_FIRST) == 0
    assert memory.value is not None
    assert memory.value % 64 == 0
    host = np.zeros(200, np.uint8)
    assert c.acl.aclrtMemcpy(memory, 99, host.ctypes.data, 100, TO_DEVICE) == INVALID_PARAMETER
    assert c.acl.aclrtMemcpy(memory, 200, host.ctypes.data, 200, TO_DEVICE) == INVALID_PARAMETER
    assert "200 bytes from byte 0 of an allocation of 100 bytes" in said(c)
    assert c.acl.aclrtMemcpy(host.ctypes.data, 100, host.ctypes.data, 100, TO_DEVICE) == INVALID_PARAMETER
    assert c.acl.aclrtMemset(memory, 100, 7, 100) == 0
    assert c.acl.aclrtMemcpy(host.ctypes.data, 100, memory, 100, TO_HOST) == 0
    assert host.tolist() == [7] * 100 + [0] * 100
    assert c.acl.aclrtFreeHost(memory) == INVALID_PARAMETER
    assert c.acl.aclrtFree(memory) == 0
    assert c.acl.aclrtFree(memory) == INVALID_PARAMETER


def test_pinned_memory_is_accounted_for(c: Libraries) -> None:
    before, memory = c.acl.AscendSimulatorLiveAllocations(), c_void_p()
    assert c.acl.aclrtMallocHost(byref(memory), 100) == 0
    assert c.acl.AscendSimulatorLiveAllocations() == before + 1
    assert c.acl.aclrtFreeHost(memory) == 0
    assert c.acl.AscendSimulatorLiveAllocations() == before
