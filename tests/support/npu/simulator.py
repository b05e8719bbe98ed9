"""The simulated device from Python: a `Device` with the simulator's own functions."""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from ctypes import c_char_p, c_void_p
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mse_grad.tensor import Array, DType
from support.npu.device import ACL_DTYPE, DTYPES, AclError, Device
from support.npu.device_abi import LaunchTensor, declare_simulator
from support.tools import require_program

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
    "require_simulator",
]

ROOT = Path(__file__).resolve().parents[3]
CHIPS = ("Ascend910B1", "Ascend910B3", "Ascend910B4", "Ascend310B1")
SCHEDULES: tuple[Mapping[str, str], ...] = (
    {"schedule": "eager"},
    {"schedule": "lazy"},
    *({"schedule": "random", "seed": seed} for seed in ("1", "2", "3")),
)
_DEFAULTS = {
    "chip": "Ascend910B3",
    "schedule": "eager",
    "seed": "0",
    "threads": "1",
    "check_order": "on",
    "check_poison": "on",
    "check_bounds": "on",
}


class KernelError(Exception):
    """A launch broke a rule.

    Attributes:
        cause: Name of the rule, as in tests/simulator/src/core/report.h.
        message: Kernel, block, pipe, call and the mistake.
    """

    def __init__(self, cause: str, message: str) -> None:
        super().__init__(f"{cause}: {message}")
        self.cause = cause
        self.message = message


@dataclass(frozen=True)
class Tensor:
    """A tensor for a launch without an operator around the kernel; `array` is its input and, afterwards, its output.

    Attributes:
        name: Name in reports.
        array: C-contiguous.
        at_end: Whether it ends at a guard page; otherwise it begins at one.
    """

    name: str
    array: Array
    at_end: bool = True


def build(*, sanitize: bool = False) -> Path:
    """Builds the libraries that are not up to date and returns their folder; one process at a time.

    Args:
        sanitize: Builds with address and undefined behaviour sanitizer, into a separate folder.

    Raises:
        AssertionError: The build failed; the message contains the compiler's.
    """
    command = ["make", "-s", "-j2", "-f", "tests/simulator/Makefile", *(["SANITIZE=1"] if sanitize else [])]
    (ROOT / "build").mkdir(exist_ok=True)
    with (ROOT / "build" / "simulator.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, f"{' '.join(command)} failed:\n{run.stdout}{run.stderr}"
    return ROOT / "build" / ("simulator-sanitized" if sanitize else "simulator")


def require_simulator(*, sanitize: bool = False) -> Path:
    """`build` for tests, which are skipped without a compiler, or fail if CI is set."""
    require_program("make")
    require_program(os.environ.get("CXX") or "g++")
    return build(sanitize=sanitize)


class Simulator(Device):
    """The simulated device of this process. One exists at a time; not thread-safe.

    Args:
        libraries: Folder that `build` returned.
        package: Folder with a libcust_opapi.so to use in place of that in `libraries`.
    """

    def __init__(self, libraries: Path, *, package: Path | None = None) -> None:
        super().__init__(libraries, package or libraries)

    def open(self) -> None:
        """Loads the libraries and takes device 0."""
        super().open()
        declare_simulator(self._ascendcl, self._nnopbase)

    def close(self) -> None:
        """Releases everything; raises AssertionError if a resource is left."""
        super().close()
        allocations = self._ascendcl.AscendSimulatorLiveAllocations()
        handles = self._nnopbase.AscendSimulatorLiveHandles()
        assert (allocations, handles) == (0, 0), f"{allocations} allocations, {handles} tensors and executors are left"

    @contextmanager
    def settings(self, **values: str) -> Iterator[None]:
        """Changes settings within the `with`; the names are those of tests/simulator/src/core/settings.h."""
        try:
            for name, value in values.items():
                self.set(name, value)
            yield
        finally:
            for name in values:
                self.set(name, _DEFAULTS[name])

    def set(self, name: str, value: str) -> None:
        """Changes one setting; raises ValueError if there is no such setting or value."""
        if self._ascendcl.AscendSimulatorSet(name.encode(), value.encode()) != 0:
            raise ValueError(self._text())

    @contextmanager
    def kernel_replaced(self, library: Path, dtype: DType) -> Iterator[None]:
        """Makes MseLossGrad run the kernel of another library within the `with`.

        Args:
            library: Has the entry mse_loss_grad.
            dtype: Dtype for which it is compiled.
        """
        entry = ctypes.cast(ctypes.CDLL(str(library)).mse_loss_grad, c_void_p)
        self._nnopbase.AscendSimulatorReplaceKernel(b"MseLossGrad", ACL_DTYPE[dtype], entry)
        try:
            yield
        finally:
            self._nnopbase.AscendSimulatorReplaceKernel(b"MseLossGrad", ACL_DTYPE[dtype], None)

    def plan(self, shape: Sequence[int], dtype: DType, *, tiling_bytes: int) -> tuple[int, bytes]:
        """Returns blocks and tiling data of MseLossGrad for a shape of any size; uses no memory.

        Raises:
            AclError: The operator refused the shape.
        """
        tensors = [self._create(shape, dtype, None) for _ in range(4)]
        try:
            executor = self._prepare("aclnnMseLossGrad", tensors[:3], [c_char_p(b"mean")], tensors[3])
            tiling = ctypes.create_string_buffer(tiling_bytes)
            blocks = self._nnopbase.AscendSimulatorTiling(executor, tiling, tiling_bytes)
            self._acl("aclDestroyAclOpExecutor", executor, library=self._nnopbase)
        finally:
            for tensor in tensors:
                self._acl("aclDestroyTensor", tensor, library=self._nnopbase)
        return blocks, tiling.raw

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
            tensors: In the order of the kernel's arguments; the kernel's output overwrites the arrays.
            blocks: Blocks of the launch.
            tiling: Tiling data.
            tiling_key: The value that TILING_KEY_IS compares with.
            name: Name of the kernel in reports.

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
