"""The CPU backend: the compiled kernel, or NumPy if there is none, with the same bits."""

from __future__ import annotations

import hashlib
import inspect
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

from typing_extensions import override

from mse_grad import formula
from mse_grad.tensor import DTYPES, DType
from mse_grad_kernel.native import LIBRARY_PATH, LibraryUnusable, NativeKernel
from mse_grad_server.backends.base import Backend, Gradient, OneByOne
from mse_grad_server.errors import BackendError
from mse_grad_server.process.exits import BackendUnavailable

__all__ = ["CpuBackend"]

_NUMPY = "numpy"
# NumPy takes up to fifty times as long as a compiled kernel, so its limit for the event loop is lower.
_NUMPY_INLINE_BYTES = 16 * 1024
_INLINE_BYTES = 2**30
# The least bytes of y that are worth waking a thread for. Smaller tensors lie in the caches, and there two cores gain
# little over one.
_SLICE_BYTES = 4 * 2**20
# Slices begin at a multiple of this many elements, so that no two share a cache line.
_STEP_ELEMENTS = 64


class CpuBackend(OneByOne, Backend):
    """Computes on this host's processor.

    Args:
        kernel: "avx512", "avx2", "neon", "portable", "numpy", or "auto": the fastest that runs here.
        library_path: The library of the compiled kernel.
        threads: The most threads that compute one large gradient together, a slice each.

    Attributes:
        library_path: The library of the compiled kernel; None if NumPy computes, and before `open`.
        why_numpy: The reason why "auto" chose NumPy; "" if it did not.
    """

    def __init__(self, kernel: str = "auto", *, library_path: Path = LIBRARY_PATH, threads: int = 1) -> None:
        self.library_path: Path | None = None
        self.why_numpy = ""
        self._kernel = kernel
        self._candidate_path = library_path
        self._max_slices = threads
        self._helpers: ThreadPoolExecutor | None = None
        self._native: NativeKernel | None = None
        self._device = ""
        self._kernel_hash = ""

    @property
    @override
    def name(self) -> str:
        return "cpu"

    @property
    @override
    def device(self) -> str:
        """The variant that computes: "avx512", "avx2", "neon", "portable" or "numpy"; "" unless open."""
        return self._device

    @property
    @override
    def kernel_hash(self) -> str:
        """Hexadecimal hash of the sources of the kernel, or of NumPy's formula; "" unless open."""
        return self._kernel_hash

    @property
    @override
    def dtypes(self) -> tuple[DType, ...]:
        return DTYPES

    @property
    @override
    def inline_bytes(self) -> int:
        """A limit above every setting for a compiled kernel; less for NumPy."""
        return _NUMPY_INLINE_BYTES if self._device == _NUMPY else _INLINE_BYTES

    @property
    @override
    def threads(self) -> int:
        """The settings decide: one thread keeps one core busy."""
        return 1

    @property
    @override
    def part_bytes(self) -> int:
        """More than any message holds: a message is computed in one go."""
        return _INLINE_BYTES

    @override
    def open(self) -> None:
        """Finds the kernel.

        Raises:
            BackendUnavailable: The requested kernel does not run here; the message names those that do.
        """
        if self._max_slices > 1:
            self._helpers = ThreadPoolExecutor(self._max_slices - 1, thread_name_prefix="kernel")
        if self._kernel == _NUMPY:
            self._use_numpy()
            return
        try:
            native = NativeKernel.load(self._candidate_path)
        except LibraryUnusable as cause:
            if self._kernel != "auto":
                raise BackendUnavailable(
                    f"the CPU kernel {self._kernel!r} does not run here; {_NUMPY!r} does: {cause}"
                ) from cause
            self._use_numpy(why=str(cause))
            return
        device = native.variants[0] if self._kernel == "auto" else self._kernel
        if device not in native.variants:
            available = ", ".join(repr(name) for name in (*native.variants, _NUMPY))
            raise BackendUnavailable(f"the CPU kernel {device!r} does not run here; these do: {available}")
        self._native = native
        self._device = device
        self._kernel_hash = native.source_hash
        self.library_path = self._candidate_path

    @override
    def compute(self, gradient: Gradient) -> None:
        """Writes the gradient to its `y`; releases the GIL while the compiled kernel computes.

        Several threads compute a large gradient, a slice each. All of them have ended when this returns or raises.
        It never waits, so checking the deadline is left to the caller.

        Raises:
            BackendError: The backend is not open.
            ValueError: The sizes of the arrays do not fit each other, one is not contiguous, or y is not writable.
        """
        if not self._device:
            raise BackendError("the CPU backend is not open")
        count = min(self._max_slices, gradient.y.nbytes // _SLICE_BYTES)
        if count < 2 or self._helpers is None:
            self._compute(gradient)
            return
        slices = _slices(gradient.y.size, count)
        pending = [self._helpers.submit(self._compute, _sliced(gradient, one)) for one in slices[1:]]
        try:
            self._compute(_sliced(gradient, slices[0]))
        finally:
            wait(pending)
        for future in pending:
            future.result()

    def _compute(self, gradient: Gradient) -> None:
        spec, predict, label, dout, y = gradient[:5]
        c = formula.coefficient(spec.reduction, spec.numel, spec.dtype)
        if self._native is None:
            formula.gradient_into(y, predict, label, dout, c=c, dtype=spec.dtype)
            return
        self._native.compute(self._device, spec.dtype, predict, label, dout, y, c=c, scalar_dout=spec.scalar_dout)

    @override
    def close(self) -> None:
        """Ends the threads and releases the kernel; a second call does nothing."""
        if self._helpers is not None:
            self._helpers.shutdown()
        self._helpers = None
        self._native = None
        self._device = ""
        self._kernel_hash = ""
        self.library_path = None
        self.why_numpy = ""

    def _use_numpy(self, *, why: str = "") -> None:
        self._device = _NUMPY
        self._kernel_hash = hashlib.sha256(inspect.getsource(formula).encode()).hexdigest()
        self.why_numpy = why


def _slices(elements: int, count: int) -> list[slice]:
    """Returns `count` slices of nearly equal length, or fewer, that together hold all elements."""
    step = -(-elements // (count * _STEP_ELEMENTS)) * _STEP_ELEMENTS
    return [slice(start, min(start + step, elements)) for start in range(0, elements, step)]


def _sliced(gradient: Gradient, one: slice) -> Gradient:
    spec, predict, label, dout, y = gradient[:5]
    part = dout if spec.scalar_dout else dout[one]
    return Gradient(spec, predict[one], label[one], part, y[one])
