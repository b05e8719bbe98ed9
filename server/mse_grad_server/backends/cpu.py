"""The backend for hosts without an NPU: the compiled kernel, or NumPy where there is none, with the same bits."""

from __future__ import annotations

import hashlib
import inspect
import math
from concurrent.futures import ThreadPoolExecutor, wait
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
# Bytes of y that are worth waking a thread for. Less lies in the caches, where two cores gain little on one.
_PART_BYTES = 4 * 2**20
# Parts begin at a multiple of this many elements, so that no two share a cache line.
_STEP_ELEMENTS = 64


class CpuBackend(OneByOne):
    """Computes on this host's processor; see `base.Backend`.

    Attributes:
        library_path: The library of the compiled kernel; None where NumPy computes, and before `open`.
        why_numpy: Why "auto" came to NumPy; "" where it did not.
    """

    def __init__(self, kernel: str = "auto", *, library_path: Path = LIBRARY_PATH, threads: int = 1) -> None:
        """Takes what `open` will look for.

        Args:
            kernel: "avx512", "avx2", "neon", "portable", "numpy", or "auto": the fastest that runs here.
            library_path: The library of the compiled kernel.
            threads: The most that compute a part of one large gradient each.
        """
        self.library_path: Path | None = None
        self.why_numpy = ""
        self._kernel = kernel
        self._candidate_path = library_path
        self._most_parts = threads
        self._helpers: ThreadPoolExecutor | None = None
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
        if self._most_parts > 1:
            self._helpers = ThreadPoolExecutor(self._most_parts - 1, thread_name_prefix="kernel")
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

        A large one is computed in parts by several threads; when this returns or raises, all of them have ended.

        It does not wait for anything, so that the deadline is the caller's to look at.

        Raises:
            BackendError: It is not open.
            ValueError: The sizes of the arrays do not fit each other, one is not contiguous, or y is not writable.
        """
        if not self._device:
            raise BackendError("the CPU backend is not open")
        parts = min(self._most_parts, y.nbytes // _PART_BYTES)
        if parts < 2 or self._helpers is None:
            self._compute(spec, predict, label, dout, y)
            return
        bounds = _bounds(y.size, parts)
        helping = [
            self._helpers.submit(self._compute, *_part(spec, predict, label, dout, y, start, stop))
            for start, stop in bounds[1:]
        ]
        try:
            self._compute(*_part(spec, predict, label, dout, y, *bounds[0]))
        finally:
            wait(helping)
        for help in helping:
            help.result()

    def _compute(self, spec: GradientSpec, predict: Array, label: Array, dout: Array, y: Array) -> None:
        c = formula.coefficient(spec.reduction, spec.numel, spec.dtype)
        if self._native is None:
            formula.gradient_into(y, predict, label, dout, c=c, dtype=spec.dtype)
            return
        self._native.compute(self._device, spec.dtype, predict, label, dout, y, c=c, scalar_dout=spec.scalar_dout)

    def close(self) -> None:
        """Forgets the kernel; a second call does nothing."""
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


def _bounds(count: int, parts: int) -> list[tuple[int, int]]:
    """Returns where each part of `count` elements begins and ends."""
    step = -(-count // (parts * _STEP_ELEMENTS)) * _STEP_ELEMENTS
    return [(start, min(start + step, count)) for start in range(0, count, step)]


def _part(
    spec: GradientSpec, predict: Array, label: Array, dout: Array, y: Array, start: int, stop: int
) -> tuple[GradientSpec, Array, Array, Array, Array]:
    part = slice(start, stop)
    return spec, predict[part], label[part], dout if spec.scalar_dout else dout[part], y[part]
