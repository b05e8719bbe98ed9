"""The floating-point environment of the calling thread: the bits do not depend on it, and it stays unchanged."""

from __future__ import annotations

import ctypes
import ctypes.util
import platform
import struct
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest

from mse_grad.tensor import DTYPES, FLOAT32, DType
from mse_grad_kernel.native import NativeKernel
from support.numerics.kernel_operands import assert_same_bits, formula_gradient, kernel_operands

C = 2 / 3
FE_UPWARD = {"x86_64": 0x800, "aarch64": 0x400000}

# fenv_t of the C library on x86-64: the state of the x87 unit, 28 bytes, then MXCSR.
MXCSR_OFFSET_BYTES = 28
FLUSH_TO_ZERO_AND_DENORMALS_ARE_ZERO = 0x8040

libm = ctypes.CDLL(ctypes.util.find_library("m"))


@contextmanager
def rounding_upward() -> Iterator[int]:
    upward = FE_UPWARD[platform.machine()]
    assert libm.fesetround(upward) == 0
    try:
        yield upward
    finally:
        libm.fesetround(0)


@contextmanager
def subnormals_flushed() -> Iterator[int]:
    before, flushing = ctypes.create_string_buffer(32), ctypes.create_string_buffer(32)
    libm.fegetenv(before)
    flushing.raw = before.raw
    struct.pack_into("=I", flushing, MXCSR_OFFSET_BYTES, mxcsr(before) | FLUSH_TO_ZERO_AND_DENORMALS_ARE_ZERO)
    libm.fesetenv(flushing)
    try:
        yield mxcsr(flushing)
    finally:
        libm.fesetenv(before)


def mxcsr(environment: ctypes.Array[ctypes.c_char]) -> int:
    (value,) = struct.unpack_from("=I", environment, MXCSR_OFFSET_BYTES)
    return int(value)


@pytest.mark.skipif(platform.machine() not in FE_UPWARD, reason="the constants of this machine's <fenv.h> are unknown")
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.name)
def test_a_thread_that_rounds_upward_gets_the_same_bits_and_rounds_upward_afterwards(
    native: NativeKernel, variant: str, dtype: DType
) -> None:
    for predict, label, dout in kernel_operands(1000, dtype):
        expected = formula_gradient(predict, label, dout, c=C, dtype=dtype)
        y = np.empty_like(predict)
        with rounding_upward() as upward:
            native.compute(variant, dtype, predict, label, dout, y, c=C, scalar_dout=False)
            after = libm.fegetround()
        assert after == upward
        assert_same_bits(y, expected)


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the switch lies elsewhere on other processors")
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.name)
def test_a_thread_that_flushes_subnormals_gets_them_here_and_flushes_afterwards(
    native: NativeKernel, variant: str, dtype: DType
) -> None:
    for predict, label, dout in kernel_operands(1000, dtype):
        expected = formula_gradient(predict, label, dout, c=C, dtype=dtype)
        y, environment = np.empty_like(predict), ctypes.create_string_buffer(32)
        with subnormals_flushed() as flushing:
            native.compute(variant, dtype, predict, label, dout, y, c=C, scalar_dout=False)
            libm.fegetenv(environment)
        assert mxcsr(environment) == flushing
        assert_same_bits(y, expected)


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the switch lies elsewhere on other processors")
def test_the_switch_of_the_test_above_does_flush_subnormals() -> None:
    least = np.full(64, 2.0**-149, FLOAT32.numpy)
    with subnormals_flushed():
        doubled = least + least
    assert (doubled == 0).all()
    assert (least + least != 0).all()
