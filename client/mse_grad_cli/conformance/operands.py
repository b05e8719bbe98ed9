"""Kinds of operands for the conformance checks, and their layouts in memory.

Thread safety: pure, except for the given random generator.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np

from mse_grad.tensor import Array, DType

__all__ = ["KINDS", "LAYOUTS", "lay_out"]

Operands = tuple[Array, Array, Array]


def _normal(rng: np.random.Generator, count: int, dtype: DType) -> Operands:
    """Standard normal values, as in training."""
    predict, label, dout = (rng.standard_normal(count).astype(dtype.numpy) for _ in range(3))
    return predict, label, dout


def _wide(rng: np.random.Generator, count: int, dtype: DType) -> Operands:
    """Many magnitudes with mostly normal intermediates: a third of the exponents on each side of 1."""
    limits = _limits(dtype)
    low, high = int(limits.minexp) // 3, int(limits.maxexp) // 3
    predict, label, dout = (_scaled(rng, count, dtype, low, high) for _ in range(3))
    return predict, label, dout


def _extreme(rng: np.random.Generator, count: int, dtype: DType) -> Operands:
    """All magnitudes down to subnormals, so that intermediates underflow and overflow; zeros, infinities, NaNs."""
    limits = _limits(dtype)
    low, high = int(limits.minexp) - int(limits.nmant), int(limits.maxexp) - 1
    operands = []
    for _ in range(3):
        values = _scaled(rng, count, dtype, low, high)
        special = rng.random(count) < 0.1
        values[special] = rng.choice(np.array([0.0, -0.0, np.inf, -np.inf, np.nan]), count)[special].astype(dtype.numpy)
        operands.append(values)
    predict, label, dout = operands
    # Otherwise nearly every difference is as large as its larger operand, and few differences are subnormal.
    label[rng.random(count) < 0.3] = 0
    return predict, label, dout


def _cancelling(rng: np.random.Generator, count: int, dtype: DType) -> Operands:
    """Pairs that are equal or up to three representable values apart."""
    predict, _, dout = _normal(rng, count, dtype)
    label = predict.copy()
    label.view(f"u{dtype.itemsize_bytes}")[...] += rng.integers(0, 4, count).astype(f"u{dtype.itemsize_bytes}")
    return predict, label, dout


def _tied(rng: np.random.Generator, count: int, dtype: DType) -> Operands:
    """Differences halfway between two values of the dtype, times powers of two: the rule for ties decides."""
    bits = int(_limits(dtype).nmant)
    sign = rng.choice(np.array([-1.0, 1.0]), count)
    predict = sign * (1 + rng.integers(0, 2**bits, count) * 2.0**-bits)
    label = -sign * 2.0 ** -(bits + 1)
    dout = np.ldexp(rng.choice(np.array([-1.0, 1.0]), count), rng.integers(-3, 3, count))
    return predict.astype(dtype.numpy), label.astype(dtype.numpy), dout.astype(dtype.numpy)


KINDS: dict[str, Callable[[np.random.Generator, int, DType], Operands]] = {
    "normal": _normal,
    "wide": _wide,
    "extreme": _extreme,
    "cancelling": _cancelling,
    "tied": _tied,
}
"""Generators of n elements each of predict, label and dout, by name."""


def _c_order(values: Array) -> Array:
    return values


def _fortran(values: Array) -> Array:
    return np.asfortranarray(values)


def _strided(values: Array) -> Array:
    """Returns a copy of `values` whose innermost dimension has a stride of two elements."""
    spaced = np.zeros((*values.shape[:-1], 2 * values.shape[-1]), values.dtype)
    spaced[..., ::2] = values
    return spaced[..., ::2]


def _reversed(values: Array) -> Array:
    """Returns a copy of `values` whose outermost dimension has a negative stride."""
    return np.ascontiguousarray(values[::-1])[::-1]


def _unaligned(values: Array) -> Array:
    """Returns a copy of `values` that lies one byte off every alignment, as views of a message may."""
    raw = np.empty(values.nbytes + 1, np.uint8)
    shifted = raw[1:].view(values.dtype).reshape(values.shape)
    shifted[...] = values
    return shifted


LAYOUTS: dict[str, Callable[[Array], Array]] = {
    "C": _c_order,
    "Fortran": _fortran,
    "strided": _strided,
    "reversed": _reversed,
    "unaligned": _unaligned,
}


def lay_out(values: Array, layout: str) -> Array:
    """Returns `values`, of rank 1 or more, with equal elements in the layout `layout`, a key of `LAYOUTS`."""
    return LAYOUTS[layout](values)


def _limits(dtype: DType) -> Any:
    return ml_dtypes.finfo(dtype.numpy)  # type: ignore[no-untyped-call]


def _scaled(rng: np.random.Generator, count: int, dtype: DType, low: int, high: int) -> Array:
    mantissa = rng.uniform(1, 2, count) * rng.choice(np.array([-1.0, 1.0]), count)
    with np.errstate(all="ignore"):
        scaled: Array = np.ldexp(mantissa, rng.integers(low, high, count, endpoint=True))
        return scaled.astype(dtype.numpy)
