"""The CPU kernel in another process: for another architecture under an emulator, or with sanitizers."""

from __future__ import annotations

import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from mse_grad.formula import coefficient
from mse_grad.tensor import DTYPES, Array, DType
from mse_grad_server.backends.base import Gradient, OneByOne
from support.tools import require_program

__all__ = ["BUILD_SCRIPT", "KernelProcess", "ProcessBackend", "build_runner", "running_kernel"]

ROOT = Path(__file__).resolve().parents[3]
BUILD_SCRIPT = ROOT / "kernel" / "cpu" / "build_kernel.py"
RUNNER = ROOT / "tests" / "kernel" / "runner.cpp"

# The numbers of kernel/cpu/mse_loss_grad_cpu.h.
VARIANTS = {"portable": 0, "neon": 1, "avx2": 2, "avx512": 3}

_CASE = struct.Struct("=iiiiqd")
_ANSWER = struct.Struct("=ii")
_MASK = struct.Struct("=I")


def build_runner(compiler: str, output: Path, *, flags: Sequence[str] = ()) -> Path:
    """Compiles the kernel and tests/kernel/runner.cpp to the program `output`, with warnings as errors; returns it.

    Args:
        compiler: Program, which the test requires.
        output: The program to write.
        flags: Further flags for compiling and linking.
    """
    command = [sys.executable, str(BUILD_SCRIPT), "--compiler", require_program(compiler), "--output", str(output)]
    command += ["--program", str(RUNNER), "--warnings-are-errors", *(f"--flag={flag}" for flag in flags)]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    return output


class KernelProcess:
    """The kernel in a runner; made ready and ended by `running_kernel`.

    Thread safety: calls from several threads wait for each other.

    Attributes:
        variants: Names of the variants that run in the process.
    """

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self._lock = threading.Lock()
        (mask,) = _MASK.unpack(self._read(_MASK.size))
        self.variants = tuple(name for name, number in VARIANTS.items() if mask >> number & 1)

    def gradient(
        self,
        variant: str,
        dtype: DType,
        predict: Array,
        label: Array,
        dout: Array,
        *,
        c: float,
        scalar_dout: bool = False,
        misalignment: int = 0,
    ) -> Array:
        """Returns the gradient; raises AssertionError if the kernel fails or writes a byte around y.

        Args:
            variant: One of `variants`.
            dtype: Element type of all operands.
            predict: n elements.
            label: n elements.
            dout: n elements, or one if `scalar_dout`.
            c: The coefficient.
            scalar_dout: Whether dout is a single element.
            misalignment: Offset of each tensor from a multiple of 64, in bytes, 0 to 63.
        """
        case = _CASE.pack(VARIANTS[variant], dtype.wire, scalar_dout, misalignment, predict.size, c)
        assert self._process.stdin is not None
        with self._lock:
            self._process.stdin.write(b"".join((case, predict.tobytes(), label.tobytes(), dout.tobytes())))
            self._process.stdin.flush()
            status, intact = _ANSWER.unpack(self._read(_ANSWER.size))
            assert status == 0, f"{variant}, {dtype.name}: status {status}"
            y = np.frombuffer(self._read(predict.nbytes), dtype.numpy)
        assert intact, f"{variant}, {dtype.name}, {predict.size} elements: bytes around y were written"
        return y

    def _read(self, size_bytes: int) -> bytes:
        assert self._process.stdout is not None
        data = self._process.stdout.read(size_bytes)
        assert len(data) == size_bytes, "the runner ended"
        return data


class ProcessBackend(OneByOne):
    """One variant in a `KernelProcess` as a `mse_grad_server.backends.base.Backend`."""

    name = "cpu"
    kernel_hash = ""
    inline_bytes = 2**30
    threads = 1
    part_bytes = 2**30
    dtypes = DTYPES

    def __init__(self, process: KernelProcess, variant: str) -> None:
        self.device = variant
        self._process = process

    def open(self) -> None:
        """Does nothing: the process runs already."""

    def compute(self, gradient: Gradient) -> None:
        """Writes the gradient to its `y`."""
        spec, predict, label, dout, y = gradient[:5]
        c = coefficient(spec.reduction, spec.numel, spec.dtype)
        y[...] = self._process.gradient(
            self.device, spec.dtype, predict, label, dout, c=c, scalar_dout=spec.scalar_dout
        )

    def close(self) -> None:
        """Does nothing: the process has another owner."""


@contextmanager
def running_kernel(*command: str) -> Iterator[KernelProcess]:
    """Runs a runner within the `with`; it must end with exit code 0 and write nothing to stderr.

    Args:
        command: The program and its arguments, perhaps under an emulator.
    """
    with tempfile.TemporaryFile() as words:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=words)
        try:
            yield KernelProcess(process)
        finally:
            process.communicate()  # closes stdin, which ends the runner
            words.seek(0)
            said = words.read().decode()
            print(said, file=sys.stderr)  # a sanitizer's report explains any failure in the body
        assert (process.returncode, said) == (0, "")
