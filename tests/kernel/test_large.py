"""Counts past 2^31 elements."""

from __future__ import annotations

import ctypes
import mmap
import os

import numpy as np
import pytest

from mse_grad.tensor import BFLOAT16, Array
from mse_grad_kernel.native import NativeKernel
from support.numerics.kernel_operands import assert_same_bits, formula_gradient

COUNT = 2**31 + 70_001
TAIL = 100_000
WINDOW_BYTES = 8 << 20
C = 2.0 / COUNT

libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
MAP_FIXED = 0x10
MAP_NORESERVE = 0x4000


def sparse(size_bytes: int) -> Array:
    """Returns zeros that take no memory until they are written."""
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE
    return np.frombuffer(mmap.mmap(-1, size_bytes, flags=flags), np.uint8)


def folded(size_bytes: int) -> Array:
    """Returns an array in which all windows but the last map the same memory."""
    memory = sparse(size_bytes)
    window = os.memfd_create("window")
    try:
        os.truncate(window, WINDOW_BYTES)
        for offset in range(0, size_bytes - 2 * WINDOW_BYTES, WINDOW_BYTES):
            address = memory.ctypes.data + offset
            protection = mmap.PROT_READ | mmap.PROT_WRITE
            mapped = libc.mmap(address, WINDOW_BYTES, protection, mmap.MAP_SHARED | MAP_FIXED, window, 0)
            assert mapped == address, os.strerror(ctypes.get_errno())
    finally:
        os.close(window)
    return memory


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="needs Linux")
def test_elements_past_2_to_the_31_are_computed(native: NativeKernel, variant: str) -> None:
    dtype = BFLOAT16
    size_bytes = COUNT * dtype.itemsize_bytes
    predict, label, y = (
        memory.view(dtype.numpy) for memory in (sparse(size_bytes), sparse(size_bytes), folded(size_bytes))
    )
    rng = np.random.default_rng(3)
    tail = slice(COUNT - TAIL, COUNT)
    predict[tail] = rng.standard_normal(TAIL)
    label[tail] = rng.standard_normal(TAIL)
    dout = np.full(1, 2.0**20, dtype.numpy)
    native.compute(variant, dtype, predict, label, dout, y, c=C, scalar_dout=True)
    assert_same_bits(y[tail], formula_gradient(predict[tail], label[tail], dout, c=C, dtype=dtype))
    assert (y[tail] != 0).any()
