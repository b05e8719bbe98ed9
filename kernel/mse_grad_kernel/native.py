"""The compiled CPU kernel, called through ctypes.

Source: kernel/cpu/mse_loss_grad_cpu.h, whose numbers are repeated here.
"""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import TypeAlias

from mse_grad.pointer import is_known, pointer_of
from mse_grad.tensor import Array, DType

__all__ = ["LIBRARY_PATH", "LibraryUnusable", "NativeKernel"]

LIBRARY_PATH = Path(__file__).with_name("libmse_loss_grad_cpu.so")

_ABI_VERSION = 1
_OK = 0

Address: TypeAlias = int | ctypes.c_void_p

# Fastest first.
_VARIANTS = {"avx512": 3, "avx2": 2, "neon": 1, "portable": 0}


class LibraryUnusable(Exception):
    """The kernel's library cannot be used; the message says why."""


class NativeKernel:
    """The library of the kernel.

    Thread safety: any number of threads may call `compute` and `compute_at` at a time.

    Args:
        library: The library, which `load` has checked.

    Attributes:
        variants: Names of the variants that run on this machine, fastest first; the last is "portable".
        source_hash: Hexadecimal hash of the sources that the library was compiled from.
    """

    def __init__(self, library: ctypes.CDLL) -> None:
        library.MseLossGradCpuHash.restype = ctypes.c_char_p
        library.MseLossGradCpuVariants.restype = ctypes.c_uint32
        library.MseLossGradCpu.argtypes = [
            *(ctypes.c_int32, ctypes.c_int32, ctypes.c_int64, ctypes.c_double, ctypes.c_int32),
            *(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p),
        ]
        runnable = library.MseLossGradCpuVariants()
        self.variants = tuple(name for name, number in _VARIANTS.items() if runnable >> number & 1)
        self.source_hash: str = library.MseLossGradCpuHash().decode()
        self._function = library.MseLossGradCpu

    @classmethod
    def load(cls, path: Path = LIBRARY_PATH) -> NativeKernel:
        """Loads the kernel from the library at `path`.

        Raises:
            LibraryUnusable: There is no library, it does not load, or it has another version than this module.
        """
        if not path.exists():
            raise LibraryUnusable(f"there is no {path}; an install that finds a C++ compiler makes it")
        try:
            library = ctypes.CDLL(str(path))  # a CDLL, unlike a PyDLL, releases the GIL during its calls
            abi_version = library.MseLossGradCpuAbiVersion()
        except (OSError, AttributeError) as cause:
            raise LibraryUnusable(f"{path} cannot be loaded: {cause}") from cause
        if abi_version != _ABI_VERSION:
            raise LibraryUnusable(
                f"{path} has ABI version {abi_version}, not {_ABI_VERSION}; install the package again"
            )
        if not is_known():
            raise LibraryUnusable("this Python lays out arrays differently from CPython")
        return cls(library)

    def compute(
        self,
        variant: str,
        dtype: DType,
        predict: Array,
        label: Array,
        dout: Array,
        y: Array,
        *,
        c: float,
        scalar_dout: bool,
    ) -> None:
        """Writes the gradient of n elements to `y`; releases the GIL while it computes.

        Args:
            variant: One of `variants`.
            dtype: Element type of the four arrays, which is not checked.
            predict: n elements in C order, at any byte address.
            label: n elements in C order, at any byte address.
            dout: n elements, or one if `scalar_dout`.
            y: n elements, writable, overlapping none of the others.
            c: The coefficient; rounded to float32 unless `dtype` is float64.
            scalar_dout: Whether dout is a single element.

        Raises:
            ValueError: The sizes of the arrays do not fit each other, one is not contiguous, or y is not writable.
        """
        size_bytes = predict.nbytes
        dout_bytes = dtype.itemsize_bytes if scalar_dout else size_bytes
        if label.nbytes != size_bytes or y.nbytes != size_bytes or dout.nbytes != dout_bytes:
            raise ValueError(
                f"predict has {size_bytes} bytes, label {label.nbytes}, dout {dout.nbytes}, y {y.nbytes}; "
                f"label and y must have as many as predict, dout {dout_bytes}"
            )
        y_flags = y.flags
        if not (predict.flags.c_contiguous and label.flags.c_contiguous and dout.flags.c_contiguous):
            raise ValueError("predict, label and dout must be contiguous")
        if not (y_flags.c_contiguous and y_flags.writeable):
            raise ValueError("y must be contiguous and writable")
        self.compute_at(
            variant,
            dtype,
            size_bytes // dtype.itemsize_bytes,
            (pointer_of(predict), pointer_of(label), pointer_of(dout), pointer_of(y)),
            c=c,
            scalar_dout=scalar_dout,
        )

    def compute_at(
        self,
        variant: str,
        dtype: DType,
        count: int,
        addresses: tuple[Address, Address, Address, Address],
        *,
        c: float,
        scalar_dout: bool,
    ) -> None:
        """Writes the gradient of `count` elements, given by their addresses; releases the GIL while it computes.

        Args:
            variant: One of `variants`.
            dtype: Element type.
            count: Elements of predict, label and y, and of dout unless `scalar_dout`.
            addresses: Addresses of predict, label, dout and y, each in C order and at any byte address. They are not
                checked. The caller keeps the memory alive during the call; y overlaps none of the others.
            c: The coefficient; rounded to float32 unless `dtype` is float64.
            scalar_dout: Whether dout is a single element.

        Raises:
            ValueError: The kernel does not know the variant, the dtype or the count.
        """
        status = self._function(_VARIANTS[variant], dtype.wire, count, c, scalar_dout, *addresses)
        if status != _OK:
            raise ValueError(f"the kernel refused variant {variant!r} with dtype {dtype.name}: status {status}")
