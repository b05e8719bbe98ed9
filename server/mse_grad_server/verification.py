"""The first gradients, before anyone may ask for one: each dtype and reduction against the formula, bit for bit."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable

import numpy as np

from mse_grad import formula
from mse_grad.tensor import Array, DType, Reduction
from mse_grad_server.backends.base import Backend, GradientSpec
from mse_grad_server.errors import BackendError
from mse_grad_server.exits import BackendUnavailable, VerificationFailed

__all__ = ["open_verified", "verify"]

# Long enough for the body of every vector variant, odd so that each has a tail.
_ELEMENTS = 1037
_GUARD_ELEMENTS = 16
# What no gradient of these operands is, and what stays where a backend writes nothing.
_CANARY = 0xA5


def open_verified(backend: Backend, *, started: Callable[[str, float], None] = lambda step, seconds: None) -> int:
    """Opens `backend`, verifies it and returns how many gradients that took; blocks.

    Args:
        backend: What computes.
        started: Told how many seconds each step took: "backend", then "verify".

    Raises:
        BackendUnavailable: It cannot be opened.
        VerificationFailed: See `verify`.
    """
    began_s = time.monotonic()
    try:
        backend.open()
    except BackendError as cause:
        raise BackendUnavailable(str(cause)) from cause
    opened_s = time.monotonic()
    started("backend", opened_s - began_s)
    gradients = verify(backend)
    started("verify", time.monotonic() - opened_s)
    return gradients


def verify(backend: Backend) -> int:
    """Has `backend` compute one gradient of each kind and returns how many those were; blocks.

    Raises:
        VerificationFailed: A gradient differs from the formula, or something was written beside it.
    """
    kinds = itertools.product(backend.dtypes, Reduction, (False, True))
    count = 0
    for dtype, reduction, scalar_dout in kinds:
        _verify_kind(backend, GradientSpec(dtype, reduction, _ELEMENTS, scalar_dout))
        count += 1
    return count


def _verify_kind(backend: Backend, spec: GradientSpec) -> None:
    predict, label, dout = _operands(spec)
    expected = np.empty(_ELEMENTS, spec.dtype.numpy)
    c = formula.coefficient(spec.reduction, spec.numel, spec.dtype)
    formula.gradient_into(expected, predict, label, dout, c=c, dtype=spec.dtype)
    room = np.full((_ELEMENTS + 2 * _GUARD_ELEMENTS) * spec.dtype.itemsize_bytes, _CANARY, np.uint8)
    guarded = room.view(spec.dtype.numpy)
    y = guarded[_GUARD_ELEMENTS:-_GUARD_ELEMENTS]
    backend.compute(spec, predict, label, dout, y)
    kind = f"{spec.dtype.name}, {spec.reduction.text}, {'scalar' if spec.scalar_dout else 'full'} dout"
    wrong = np.flatnonzero(_bits(y, spec.dtype) != _bits(expected, spec.dtype))
    if wrong.size:
        first = int(wrong[0])
        raise VerificationFailed(
            f"{backend.name} ({backend.device}) computed a wrong gradient for {kind}: {wrong.size} of {_ELEMENTS} "
            f"elements differ from the formula, the first at {first}: {y[first]!s} for {expected[first]!s}"
        )
    guards = np.concatenate([guarded[:_GUARD_ELEMENTS], guarded[-_GUARD_ELEMENTS:]]).view(np.uint8)
    if np.any(guards != _CANARY):
        raise VerificationFailed(f"{backend.name} ({backend.device}) wrote beside the gradient for {kind}")


def _operands(spec: GradientSpec) -> tuple[Array, Array, Array]:
    random = np.random.default_rng(0)
    numpy_dtype = spec.dtype.numpy
    predict = random.standard_normal(_ELEMENTS).astype(numpy_dtype)
    label = random.standard_normal(_ELEMENTS).astype(numpy_dtype)
    dout = random.uniform(0.5, 2.0, 1 if spec.scalar_dout else _ELEMENTS).astype(numpy_dtype)
    return predict, label, dout


def _bits(array: Array, dtype: DType) -> Array:
    return np.ascontiguousarray(array).view(f"u{dtype.itemsize_bytes}")
