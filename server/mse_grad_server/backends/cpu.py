"""The backend for hosts without an NPU: the compiled kernel, or NumPy where there is none, with the same bits."""

from __future__ import annotations

import hashlib
import inspect
import math
from pathlib import Path

from mse_grad import formula
from mse_grad.tensor import DTYPES, Array, DType
from mse_grad_server.backends.base import GradientSpec, OneByOne
from mse_grad_server.backends.native import LIBRARY_PATH, LibraryUnusable, NativeKernel
from mse_grad_server.errors import BackendError
from mse_grad_server.exits import BackendUnavailable

__all__ = ["CpuBackend"]

_NUMPY = "numpy"
# NumPy takes up to fifty times as long as a compiled kernel: less of it may hold up the event loop.
_NUMPY_INLINE_BYTES = 16 * 1024
_INLINE_BYTES = 2**30


class CpuBackend(OneByOne):
    """Computes on this host's processor; see `base.Backend`.

    Attributes:
        library_path: The library of the compiled kernel; None where NumPy computes, and before `open`.
        why_numpy: Why "auto" came to NumPy; "" where it did not.
    """

    def __init__(self, kernel: str = "auto", *, library_path: Path = LIBRARY_PATH) -> None:
        """Takes what `open` will look for.

        Args:
            kernel: "avx512", "avx2", "neon", "portable", "numpy", or "auto": the fastest that runs here.
            library_path: The library of the compiled kernel.
        """
        self.library_path: Path | None = None
        self.why_numpy = ""
        self._kernel = kernel
        self._candidate_path = library_path
        self._native: NativeKernel | None = None
        self._device = ""
        self._kernel_hash = ""

    @property
    def name(self) -> str:
        """Always "cpu"."""
        return "cpu"

    @property
    def device(self) -> str:
        """What computes: "avx512", "avx2", "neon", "portable" or "numpy"; "" while it is not open."""
        return self._device

    @property
    def kernel_hash(self) -> str:
        """Hexadecimal hash of the sources of what computes; "" while it is not open."""
        return self._kernel_hash

    @property
    def dtypes(self) -> tuple[DType, ...]:
        """Every dtype of the contract."""
        return DTYPES

    @property
    def inline_bytes(self) -> int:
        """What the settings say, for a compiled kernel; less for NumPy."""
        return _NUMPY_INLINE_BYTES if self._device == _NUMPY else _INLINE_BYTES

    @property
    def threads(self) -> int:
        """What the settings say: one thread keeps one core busy."""
        return 1

    @property
    def part_bytes(self) -> int:
        """Never reached: a message is computed in one go."""
        return _INLINE_BYTES

    def open(self) -> None:
        """Finds the kernel.

        Raises:
            BackendUnavailable: The kernel that was asked for does not run here; the message names those that do.
        """
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

    def compute(
        self,
        spec: GradientSpec,
        predict: Array,
        label: Array,
        dout: Array,
        y: Array,
        *,
        deadline_s: float = math.inf,
    ) -> None:
        """Writes the gradient to `y`; see `base.Backend`. Releases the GIL while the compiled kernel computes.

        It does not wait for anything, so that the deadline is the caller's to look at.

        Raises:
            BackendError: It is not open.
            ValueError: The sizes of the arrays do not fit each other, one is not contiguous, or y is not writable.
        """
        if not self._device:
            raise BackendError("the CPU backend is not open")
        c = formula.coefficient(spec.reduction, spec.numel, spec.dtype)
        if self._native is None:
            formula.gradient_into(y, predict, label, dout, c=c, dtype=spec.dtype)
            return
        self._native.compute(self._device, spec.dtype, predict, label, dout, y, c=c, scalar_dout=spec.scalar_dout)

    def close(self) -> None:
        """Forgets the kernel; a second call does nothing."""
        self._native = None
        self._device = ""
        self._kernel_hash = ""
        self.library_path = None
        self.why_numpy = ""

    def _use_numpy(self, *, why: str = "") -> None:
        self._device = _NUMPY
        self._kernel_hash = hashlib.sha256(inspect.getsource(formula).encode()).hexdigest()
        self.why_numpy = why
