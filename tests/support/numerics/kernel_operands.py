"""Operands for a kernel, the expected result, and memory that shows a write past its end."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from mse_grad.formula import gradient_into
from mse_grad.tensor import Array, DType
from mse_grad_cli.conformance import same_bits
from mse_grad_cli.conformance.operands import KINDS

__all__ = ["GuardedArray", "assert_same_bits", "formula_gradient", "kernel_operands"]

_MARGIN_BYTES = 128
_CANARY = 0xA5


class GuardedArray:
    """An array at a chosen byte address between canaries.

    Attributes:
        array: The elements, all bytes canaries at first.
    """

    def __init__(self, count: int, dtype: DType, *, misalignment: int = 0) -> None:
        """Makes an array of `count` elements that starts `misalignment` bytes after a multiple of 64."""
        size_bytes = count * dtype.itemsize_bytes
        self._memory = np.full(size_bytes + 2 * _MARGIN_BYTES + 64, _CANARY, np.uint8)
        address = self._memory.ctypes.data + _MARGIN_BYTES
        self._start = _MARGIN_BYTES + (misalignment - address) % 64
        self._end = self._start + size_bytes
        self.array: Array = self._memory[self._start : self._end].view(dtype.numpy)

    def assert_intact(self) -> None:
        """Raises AssertionError if a byte around the array was written."""
        around = np.concatenate((self._memory[: self._start], self._memory[self._end :]))
        assert (around == _CANARY).all()


def kernel_operands(count: int, dtype: DType, *, seed: int = 0) -> Iterator[tuple[Array, Array, Array]]:
    """Yields predict, label and a full dout of `count` elements for every kind of data that the bar uses."""
    rng = np.random.default_rng([seed, count, dtype.wire])
    for kind in KINDS.values():
        yield kind(rng, count, dtype)


def formula_gradient(predict: Array, label: Array, dout: Array, *, c: float, dtype: DType) -> Array:
    """Returns the gradient by the formula in NumPy."""
    y = np.empty(predict.shape, dtype.numpy)
    gradient_into(y, predict, label, dout, c=c, dtype=dtype)
    return y


def assert_same_bits(y: Array, expected: Array) -> None:
    """Raises AssertionError, naming the first difference, unless the bits are equal; a NaN equals a NaN."""
    unlike = np.flatnonzero(~same_bits(y, expected))
    assert unlike.size == 0, (
        f"{unlike.size} differ; element {unlike[0]} is {y[unlike[0]]!r}, not {expected[unlike[0]]!r}"
    )
