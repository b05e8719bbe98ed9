"""The simulated device from Python: ACL, the operator API and the simulator's own functions through ctypes.

Everything goes the way of a real host: memory by aclrtMalloc, copies by aclrtMemcpy, the operator in two phases into a
stream. A tensor ends at a guard page, so that one byte too far is seen.
"""

from __future__ import annotations

import ctypes
import json
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from ctypes import byref, c_char_p, c_int64, c_uint64, c_void_p
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mse_grad.tensor import BFLOAT16, FLOAT16, FLOAT32, Array, DType, dtype_of
from support.simulator_abi import LaunchTensor, load_ascendcl, load_nnopbase, load_opapi

__all__ = [
    "CHIPS",
    "DTYPES",
    "ROOT",
    "SCHEDULES",
    "AclError",
    "KernelError",
    "Simulator",
    "Tensor",
    "build",
]

ROOT = Path(__file__).resolve().parents[2]
CHIPS = ("Ascend910B1", "Ascend910B3", "Ascend910B4", "Ascend310B1")
SCHEDULES: tuple[Mapping[str, str], ...] = (
    {"schedule": "eager"},
    {"schedule": "lazy"},
    *({"schedule": "random", "seed": seed} for seed in ("1", "2", "3")),
)
DTYPES = (FLOAT32, FLOAT16, BFLOAT16)

_ACL_DTYPE = {FLOAT32: 0, FLOAT16: 1, BFLOAT16: 27}
_FORMAT_ND = 2
_MALLOC_HUGE_FIRST = 0
_HOST_TO_DEVICE, _DEVICE_TO_HOST = 1, 2
_ALIGNMENT_BYTES = 64
_CANARY = 0xA5
_KEPT_BUFFERS = 64
_DEFAULTS = {
    "chip": "Ascend910B3",
    "schedule": "eager",
    "seed": "0",
    "threads": "1",
    "check_order": "on",
    "check_poison": "on",
    "check_bounds": "on",
}


class AclError(Exception):
    """A call of ACL or of the operator API failed.

    Attributes:
        call: Name of the C function.
        code: What it returned.
        message: What aclGetRecentErrMsg said.
    """

    def __init__(self, call: str, code: int, message: str) -> None:
        super().__init__(f"{call} returned {code}: {message}")
        self.call = call
        self.code = code
        self.message = message


class KernelError(Exception):
    """A launch broke a rule.

    Attributes:
        cause: Name of the rule, as in tests/simulator/src/core/report.h.
        message: Kernel, block, pipe, call and what was wrong.
    """

    def __init__(self, cause: str, message: str) -> None:
        super().__init__(f"{cause}: {message}")
        self.cause = cause
        self.message = message


@dataclass(frozen=True)
class Tensor:
    """A tensor for a launch without an operator around the kernel; `array` is read, and written back after it.

    Attributes:
        name: As reports call it.
        array: C-contiguous.
        at_end: Whether it ends at a guard page; otherwise it begins at one.
    """

    name: str
    array: Array
    at_end: bool = True


def build(*, sanitize: bool = False) -> Path:
    """Builds what is not up to date and returns the folder of the libraries.

    Raises:
        AssertionError: It did not build; the message holds the compiler's.
    """
    command = ["make", "-s", "-j2", "-f", "tests/simulator/Makefile", *(["SANITIZE=1"] if sanitize else [])]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, f"{' '.join(command)} failed:\n{run.stdout}{run.stderr}"
    return ROOT / "build" / ("simulator-sanitized" if sanitize else "simulator")


class Simulator:
    """The simulated device of this process. One exists at a time; not thread-safe.

    Args:
        libraries: Folder that `build` returned.
        package: Folder with another libcust_opapi.so than that of `libraries`.
    """

    def __init__(self, libraries: Path, *, package: Path | None = None) -> None:
        self._libraries = libraries
        self._package = package or libraries
        self._buffers: dict[tuple[str, int], int] = {}

    def open(self) -> None:
        """Loads the libraries and takes device 0."""
        self._ascendcl = load_ascendcl(self._libraries)
        self._nnopbase = load_nnopbase(self._libraries)
        self._opapi = load_opapi(self._package)
        self._acl("aclInit", None)
        self._acl("aclrtSetDevice", 0)
        self._stream = c_void_p()
        self._acl("aclrtCreateStream", byref(self._stream))

    def close(self) -> None:
        """Gives everything back; raises AssertionError where something is left."""
        self._acl("aclrtDestroyStream", self._stream)
        self.free_buffers()
        self._acl("aclrtResetDevice", 0)
        self._acl("aclFinalize")
        left = self._ascendcl.AscendSimulatorLiveAllocations()
        assert left == 0, f"{left} allocations are left"

    @contextmanager
    def settings(self, **values: str) -> Iterator[None]:
        """Changes settings for the body of the `with`; the names are those of tests/simulator/src/core/settings.h."""
        try:
            for name, value in values.items():
                self.set(name, value)
            yield
        finally:
            for name in values:
                self.set(name, _DEFAULTS[name])

    def set(self, name: str, value: str) -> None:
        """Changes one setting; raises ValueError where there is no such setting or value."""
        if self._ascendcl.AscendSimulatorSet(name.encode(), value.encode()) != 0:
            raise ValueError(self._text())

    @property
    def soc_name(self) -> str:
        """What aclrtGetSocName answers."""
        name: bytes = self._ascendcl.aclrtGetSocName()
        return name.decode()

    def compute(self, predict: Array, label: Array, dout: Array | float, reduction: str | None) -> Array:
        """Returns the gradient of `aclnnMseLossGrad`, in the form that the bar judges.

        Args:
            predict: Any shape and layout; float32, float16 or bfloat16.
            label: Likewise.
            dout: Likewise, or one element, or a number.
            reduction: Any text, or None for the operator's default.

        Raises:
            AclError: A call failed; a fault of the kernel comes from aclrtSynchronizeStream.
        """
        return self._compute("aclnnMseLossGrad", predict, label, dout, [_text(reduction)])

    def compute_part(
        self, predict: Array, label: Array, dout: Array | float, reduction: str | None, *, numel: int
    ) -> Array:
        """Returns the gradient of `aclnnMseLossGradPart`; `numel` is the element count of the whole tensor."""
        return self._compute("aclnnMseLossGradPart", predict, label, dout, [_text(reduction), c_int64(numel)])

    def last_launch(self) -> dict[str, Any]:
        """Returns counters and cost estimate of the launch that ended last."""
        report: bytes = self._ascendcl.AscendSimulatorLastLaunch()
        parsed: dict[str, Any] = json.loads(report)
        return parsed

    def launch(
        self,
        kernel: Any,
        tensors: Sequence[Tensor],
        *,
        blocks: int = 1,
        tiling: bytes = b"",
        tiling_key: int = 0,
        name: str = "kernel",
    ) -> None:
        """Runs a kernel without an operator around it.

        Args:
            kernel: Function of a loaded library; takes the tensors, a workspace (null) and the tiling data.
            tensors: In the order of the kernel's arguments; arrays are overwritten by what the kernel wrote.
            blocks: Blocks of the launch.
            tiling: Tiling data.
            tiling_key: What TILING_KEY_IS compares with.
            name: As reports call the kernel.

        Raises:
            KernelError: The kernel broke a rule.
        """
        memory = [_GuardedCopy(self._ascendcl, tensor) for tensor in tensors]
        try:
            described = (LaunchTensor * len(tensors))(*(copy.described() for copy in memory))
            failed = self._ascendcl.AscendSimulatorLaunch(
                name.encode(), kernel, blocks, described, len(tensors), tiling, len(tiling), tiling_key
            )
            for copy in memory:
                copy.read_back()
        finally:
            for copy in memory:
                copy.free()
        if failed:
            cause, _, message = self._text().partition(": ")
            raise KernelError(cause, message)

    def vector(
        self,
        op: int,
        dst_element: int,
        src_element: int,
        *,
        dst: Array,
        src0: Array,
        src1: Array | None = None,
        round_mode: int = 0,
        scalar: int = 0,
    ) -> None:
        """Runs one vector call on host memory; the numbers are those of simulator/device.h and AscendC::RoundMode.

        Raises:
            ValueError: The simulated chips have no such instruction.
        """
        second = None if src1 is None else src1.ctypes.data
        failed = self._ascendcl.AscendSimulatorVector(
            op, dst_element, src_element, round_mode, dst.ctypes.data, src0.ctypes.data, second, scalar, dst.size
        )
        if failed:
            raise ValueError(self._text())

    def free_buffers(self) -> None:
        """Frees the device memory that `compute` keeps for its next calls."""
        for address in self._buffers.values():
            self._acl("aclrtFree", address)
        self._buffers.clear()

    def _compute(
        self, function: str, predict: Array, label: Array, dout: Array | float, attributes: Sequence[Any]
    ) -> Array:
        if len(self._buffers) > _KEPT_BUFFERS:
            self.free_buffers()
        dtype = dtype_of(predict.dtype, field="predict")
        given = {
            "predict": np.ascontiguousarray(predict, dtype.numpy).reshape(predict.shape),
            "label": np.ascontiguousarray(label, dtype.numpy).reshape(np.shape(label)),
            "dout": np.ascontiguousarray(dout, dtype.numpy).reshape(np.shape(dout)),
        }
        y = np.empty(predict.shape, dtype.numpy)
        tensors = [self._tensor(name, array, dtype) for name, array in given.items()]
        out = self._tensor("y", np.full(y.nbytes, _CANARY, np.uint8).view(dtype.numpy).reshape(y.shape), dtype)
        try:
            self._run(function, tensors, attributes, out)
            if y.nbytes:
                self._acl(
                    "aclrtMemcpy", y.ctypes.data, y.nbytes, self._address("y", y.nbytes), y.nbytes, _DEVICE_TO_HOST
                )
        finally:
            for tensor in [*tensors, out]:
                self._acl("aclDestroyTensor", tensor, library=self._nnopbase)
        return y

    def _run(self, function: str, tensors: Sequence[int], attributes: Sequence[Any], out: int) -> None:
        workspace_bytes, executor = c_uint64(), c_void_p()
        arguments = (*map(c_void_p, tensors), *attributes, c_void_p(out), byref(workspace_bytes), byref(executor))
        self._acl(f"{function}GetWorkspaceSize", *arguments, library=self._opapi)
        assert workspace_bytes.value == 0, "the operator needs no workspace"
        self._acl(function, None, c_uint64(0), executor, self._stream, library=self._opapi)
        try:
            self._acl("aclrtSynchronizeStream", self._stream)
        except AclError:
            # A stream that failed stays so.
            self._acl("aclrtDestroyStream", self._stream)
            self._acl("aclrtCreateStream", byref(self._stream))
            raise

    def _tensor(self, name: str, array: Array, dtype: DType) -> int:
        address = self._address(name, array.nbytes) if array.nbytes else None
        if array.nbytes:
            self._acl("aclrtMemcpy", address, array.nbytes, array.ctypes.data, array.nbytes, _HOST_TO_DEVICE)
        dims = (c_int64 * array.ndim)(*array.shape)
        tensor: int | None = self._nnopbase.aclCreateTensor(
            dims, array.ndim, _ACL_DTYPE[dtype], None, 0, _FORMAT_ND, dims, array.ndim, address
        )
        if tensor is None:
            raise AclError("aclCreateTensor", 0, self._last_error())
        return tensor

    def _address(self, name: str, size_bytes: int) -> int:
        """Returns memory for a tensor that ends at a guard page; the same for the same name and rounded size."""
        room = -(-size_bytes // _ALIGNMENT_BYTES) * _ALIGNMENT_BYTES
        key = (name, room)
        if key not in self._buffers:
            memory = c_void_p()
            self._acl("aclrtMalloc", byref(memory), room, _MALLOC_HUGE_FIRST)
            assert memory.value is not None
            self._buffers[key] = memory.value
        return self._buffers[key] + room - size_bytes

    def _acl(self, call: str, *arguments: Any, library: ctypes.CDLL | None = None) -> None:
        code = getattr(library or self._ascendcl, call)(*arguments)
        if code != 0:
            raise AclError(call, code, self._last_error())

    def _last_error(self) -> str:
        message: bytes | None = self._ascendcl.aclGetRecentErrMsg()
        return "" if message is None else message.decode()

    def _text(self) -> str:
        text: bytes = self._ascendcl.AscendSimulatorText()
        return text.decode()


class _GuardedCopy:
    """A copy of an array in guarded memory."""

    def __init__(self, library: ctypes.CDLL, tensor: Tensor) -> None:
        self._library = library
        self._tensor = tensor
        self._size_bytes = max(tensor.array.nbytes, 1)
        self.address: int = library.AscendSimulatorAllocate(self._size_bytes, int(tensor.at_end))
        ctypes.memmove(self.address, tensor.array.ctypes.data, tensor.array.nbytes)

    def described(self) -> LaunchTensor:
        return LaunchTensor(self._tensor.name.encode(), self.address, self._tensor.array.nbytes)

    def read_back(self) -> None:
        ctypes.memmove(self._tensor.array.ctypes.data, self.address, self._tensor.array.nbytes)

    def free(self) -> None:
        self._library.AscendSimulatorFree(self.address, self._size_bytes, int(self._tensor.at_end))


def _text(reduction: str | None) -> c_char_p:
    return c_char_p(None if reduction is None else reduction.encode())
