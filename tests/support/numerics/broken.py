"""Ways to break a gradient: the typical mistakes of kernels, transports and rewrites of the formula."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from itertools import count
from typing import Any

import numpy as np

from mse_grad.tensor import Array, dtype_of
from mse_grad_cli.conformance import Compute, Dout
from support.numerics.compute import formula_compute

Combine = Callable[[Array, Any, Array], Array]
"""From the difference, c and dout, in the type of the intermediates, to the gradient."""


def true(difference: Array, c: Any, dout: Array) -> Array:
    """The order of the contract."""
    return np.asarray(difference * c * dout)


def combined(
    combine: Combine, *, numel: Callable[[Array], float] = lambda predict: predict.size, wide: Any = None
) -> Compute:
    """Returns the formula with another order of its steps, another N or another type of its intermediates."""

    def compute(predict: Array, label: Array, dout: Dout, reduction: str) -> Array:
        with np.errstate(all="ignore"):
            return np.asarray(combine(*_steps(predict, label, dout, reduction, numel, wide)), predict.dtype)

    return compute


def changed(change: Callable[[Array], Array]) -> Compute:
    """Returns the true gradient, changed afterwards."""

    def compute(predict: Array, label: Array, dout: Dout, reduction: str) -> Array:
        with np.errstate(all="ignore"):
            return np.asarray(change(formula_compute(predict, label, dout, reduction)), predict.dtype)

    return compute


def rounded(rounding: Callable[[Array, Array], Array]) -> Compute:
    """Returns the formula with another rounding to 16 bits, a function of the float32 and the nearest values."""

    def compute(predict: Array, label: Array, dout: Dout, reduction: str) -> Array:
        with np.errstate(all="ignore"):
            y = np.asarray(true(*_steps(predict, label, dout, reduction)), np.float32)
            return rounding(y, np.asarray(y.astype(predict.dtype)))

    return compute


def in_chunks(elements: int) -> Compute:
    """Returns a transport that does not know the whole tensor: every chunk is computed with its own N."""

    def compute(predict: Array, label: Array, dout: Dout, reduction: str) -> Array:
        x, t, g = predict.reshape(-1), label.reshape(-1), np.asarray(dout, predict.dtype).reshape(-1)
        y = np.empty_like(x)
        for start in range(0, x.size, elements):
            part = slice(start, start + elements)
            y[part] = formula_compute(x[part], t[part], g[part] if g.size == x.size else g, reduction)
        return y.reshape(predict.shape)

    return compute


def another_reduction(wrong: Mapping[str, str]) -> Compute:
    """Returns a server that mistakes some reductions for others."""

    def compute(predict: Array, label: Array, dout: Dout, reduction: str) -> Array:
        return formula_compute(predict, label, dout, wrong.get(reduction, reduction))

    return compute


def stale() -> Compute:
    """Returns a server that returns the content that the last call left in the buffer of this size."""
    left: dict[tuple[int, str], Array] = {}

    def compute(predict: Array, label: Array, dout: Dout, reduction: str) -> Array:
        y = formula_compute(predict, label, dout, reduction)
        before = left.get((y.size, y.dtype.name), np.zeros_like(y))
        left[y.size, y.dtype.name] = y
        return before.reshape(y.shape)

    return compute


def wrong_every_seventh_time() -> Compute:
    """Returns a kernel with a race that shows from time to time."""
    calls = count(1)

    def compute(predict: Array, label: Array, dout: Dout, reduction: str) -> Array:
        y = formula_compute(predict, label, dout, reduction)
        return _last_bit_flipped(y) if next(calls) % 7 == 0 else y

    return compute


def wrong_in_other_threads() -> Compute:
    """Returns a kernel whose floating-point mode is set only in the thread that loaded it."""
    home = threading.get_ident()

    def compute(predict: Array, label: Array, dout: Dout, reduction: str) -> Array:
        y = formula_compute(predict, label, dout, reduction)
        return y if threading.get_ident() == home else _last_bit_flipped(y)

    return compute


def first_chunk_of_dout(predict: Array, label: Array, dout: Dout, reduction: str) -> Array:
    g = np.asarray(dout, predict.dtype)
    return formula_compute(predict, label, np.resize(g.reshape(-1)[:256], g.size).reshape(g.shape), reduction)


def first_element_of_dout(predict: Array, label: Array, dout: Dout, reduction: str) -> Array:
    g = np.asarray(dout, predict.dtype).reshape(-1)[:1]
    return formula_compute(predict, label, g if g.size else 1.0, reduction)


def without_dout(predict: Array, label: Array, dout: Dout, reduction: str) -> Array:
    return formula_compute(predict, label, 1.0, reduction)


def dout_through_float16(predict: Array, label: Array, dout: Dout, reduction: str) -> Array:
    with np.errstate(all="ignore"):
        half = np.asarray(dout, predict.dtype).astype(np.float16).astype(predict.dtype)
    return formula_compute(predict, label, half, reduction)


def in_order_of_memory(predict: Array, label: Array, dout: Dout, reduction: str) -> Array:
    x, t, g = (operand.ravel("K") for operand in (predict, label, np.asarray(dout, predict.dtype)))
    return formula_compute(x, t, g, reduction).reshape(predict.shape)


def index_of_16_bits(predict: Array, label: Array, dout: Dout, reduction: str) -> Array:
    y = formula_compute(predict, label, dout, reduction).reshape(-1)
    return y[np.arange(y.size).astype(np.uint16)].reshape(predict.shape)


def tail_in_double(predict: Array, label: Array, dout: Dout, reduction: str) -> Array:
    """The elements that no vector of 16 covers, computed by a scalar loop in double precision."""
    y = formula_compute(predict, label, dout, reduction).reshape(-1)
    tail = y.size - y.size % 16
    y[tail:] = combined(true, wide=np.float64)(predict, label, dout, reduction).reshape(-1)[tail:]
    return y.reshape(predict.shape)


def fused(predict: Array, label: Array, dout: Dout, reduction: str) -> Array:
    """A multiply-subtract with one rounding, which a compiler may generate for predict * c - label * c."""
    with np.errstate(all="ignore"):
        x, c, g = _steps(predict, np.zeros_like(predict), dout, reduction)
        wider: Any = np.longdouble if x.dtype == np.float64 else np.float64
        scaled_label = label.astype(x.dtype) * c
        difference = (x.astype(wider) * wider(c) - scaled_label.astype(wider)).astype(x.dtype)
        return np.asarray(difference * g, predict.dtype)


def float32_result(predict: Array, label: Array, dout: Dout, reduction: str) -> Array:
    with np.errstate(all="ignore"):
        return formula_compute(predict, label, dout, reduction).astype(np.float32)


def flat_result(predict: Array, label: Array, dout: Dout, reduction: str) -> Array:
    return formula_compute(predict, label, dout, reduction).reshape(-1)


def with_last_element(value: float) -> Compute:
    """Returns a kernel whose last vector is one element short, so that the buffer's old value stays."""

    def change(y: Array) -> Array:
        y.reshape(-1)[-1:] = value
        return y

    return changed(change)


def flushing(difference: Array, c: Any, dout: Array) -> Array:
    """The steps on a processor that flushes subnormal inputs and results to zero."""
    return _flushed(_flushed(_flushed(difference) * c) * _flushed(dout))


def flushed_to_float16(y: Array) -> Array:
    return np.where(np.abs(y) < np.float16(2.0**-14), np.copysign(np.float16(0), y), y)


def clamped_to_float16(y: Array) -> Array:
    return np.where(np.isinf(y), np.copysign(np.float16(65504), y), y)


def nan_to_zero(y: Array) -> Array:
    return np.where(np.isnan(y), y.dtype.type(0), y)


def truncated(y: Array, nearest: Array) -> Array:
    nearest.view(np.uint16)[np.abs(nearest.astype(np.float32)) > np.abs(y)] -= 1
    return nearest


def ties_away(y: Array, nearest: Array) -> Array:
    further = nearest.copy()
    further.view(np.uint16)[...] += 1
    near, far = (np.abs(values.astype(np.float64)) for values in (nearest, further))
    tie = (near < np.abs(y)) & (np.abs(y) - near == far - np.abs(y))
    return np.where(tie, further, nearest)


def _steps(
    predict: Array,
    label: Array,
    dout: Dout,
    reduction: str,
    numel: Callable[[Array], float] = lambda predict: predict.size,
    wide: Any = None,
) -> tuple[Array, Any, Array]:
    wide = wide or dtype_of(predict.dtype, field="predict").compute.type
    n = numel(predict)
    c = wide(2.0 / n if n else 0.0) if reduction == "mean" and predict.size else wide(2)
    g = np.asarray(dout, predict.dtype)
    g = g if g.shape == predict.shape else g.reshape(())
    difference: Array = np.asarray(predict.astype(wide) - label.astype(wide))
    return difference, c, g.astype(wide)


def _flushed(values: Array) -> Array:
    subnormal: Array = np.abs(values) < np.finfo(values.dtype).smallest_normal
    flushed: Array = np.where(subnormal, np.copysign(0, values), values)
    return flushed


def _last_bit_flipped(y: Array) -> Array:
    flipped: Array = np.array(y)
    flipped.reshape(-1).view(f"u{y.dtype.itemsize}")[-1:] ^= 1
    return flipped
