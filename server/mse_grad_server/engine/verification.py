"""Verification of a backend before it serves: gradients of each dtype and reduction, bit for bit."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from typing import NamedTuple

import ml_dtypes
import numpy as np

from mse_grad import formula
from mse_grad.tensor import Array, DType, Reduction
from mse_grad_server.backends.base import Backend, Gradient, GradientSpec
from mse_grad_server.backends.edges import Edges
from mse_grad_server.errors import BackendError
from mse_grad_server.process.exits import BackendUnavailable, VerificationFailed

__all__ = ["Verified", "find_edges", "open_verified", "verify"]

# Number of elements: enough for the main loop of every vector kernel, and odd, so that each kernel also has a tail.
_ELEMENTS = 1037
_GUARD_ELEMENTS = 16
# Byte that fills the output beforehand. No gradient of these operands has it, so it shows what a backend did not write.
_CANARY = 0xA5


class Verified(NamedTuple):
    """Result of the verification.

    Attributes:
        gradients: Number of verified gradients.
        edges: Edges of the numerical contract that hold on the backend.
    """

    gradients: int
    edges: Edges


def open_verified(backend: Backend, *, started: Callable[[str, float], None] = lambda step, seconds: None) -> Verified:
    """Opens `backend`, verifies it and finds its edges. The call blocks.

    Args:
        backend: The backend.
        started: Called with the name and the seconds of each completed step: "backend", then "verify".

    Raises:
        BackendUnavailable: The backend cannot be opened.
        VerificationFailed: A gradient is wrong, or the backend wrote beside it.
    """
    began_s = time.monotonic()
    try:
        backend.open()
    except BackendError as cause:
        raise BackendUnavailable(str(cause)) from cause
    opened_s = time.monotonic()
    started("backend", opened_s - began_s)
    verified = Verified(verify(backend), find_edges(backend))
    started("verify", time.monotonic() - opened_s)
    return verified


def verify(backend: Backend) -> int:
    """Compares one gradient of each kind with the formula and returns the number of kinds. The call blocks.

    Raises:
        VerificationFailed: A gradient differs from the formula, or the backend wrote beside it.
    """
    kinds = itertools.product(backend.dtypes, Reduction, (False, True))
    count = 0
    for dtype, reduction, scalar_dout in kinds:
        _verify_kind(backend, GradientSpec(dtype, reduction, _ELEMENTS, scalar_dout))
        count += 1
    return count


def find_edges(backend: Backend) -> Edges:
    """Computes edge cases in each dtype and returns the edges that hold in all of them. The call blocks."""
    held = [_find_edges(backend, dtype) for dtype in backend.dtypes]
    return Edges(*(all(each) for each in zip(*held, strict=True)))


def _find_edges(backend: Backend, dtype: DType) -> Edges:
    limits = ml_dtypes.finfo(dtype.numpy)  # type: ignore[no-untyped-call]
    largest, least = float(limits.max), float(limits.smallest_subnormal)
    inf, nan = np.inf, np.nan
    # (predict, label, dout) of each case, grouped by the fields of Edges.
    cases = (
        [(inf, 1, 1), (-inf, 1, 1), (1, inf, 1), (inf, 1, -1), (inf, inf, 1), (0, 0, inf)],
        [(nan, 1, 1), (1, nan, 1), (1, 0, nan)],
        [(largest, -largest, 1), (-largest, largest, 1)],
        [(least, 0, 0.5), (-3 * least, 0, 0.5), (0, least, 0.5), (1, 0.5, least)],
    )
    operands = np.array([case for group in cases for case in group], dtype.numpy).T
    predict, label, dout = (np.ascontiguousarray(values) for values in operands)
    spec = GradientSpec(dtype, Reduction.SUM, predict.size, False)
    y, expected = np.empty_like(predict), np.empty_like(predict)
    backend.compute(Gradient(spec, predict, label, dout, y))
    c = formula.coefficient(spec.reduction, spec.numel, dtype)
    formula.gradient_into(expected, predict, label, dout, c=c, dtype=dtype)
    holds = (_bits(y, dtype) == _bits(expected, dtype)) | (np.isnan(y) & np.isnan(expected))
    ends = np.cumsum([len(group) for group in cases])
    return Edges(*(bool(part.all()) for part in np.split(holds, ends[:-1])))


def _verify_kind(backend: Backend, spec: GradientSpec) -> None:
    predict, label, dout = _operands(spec)
    expected = np.empty(_ELEMENTS, spec.dtype.numpy)
    c = formula.coefficient(spec.reduction, spec.numel, spec.dtype)
    formula.gradient_into(expected, predict, label, dout, c=c, dtype=spec.dtype)
    room = np.full((_ELEMENTS + 2 * _GUARD_ELEMENTS) * spec.dtype.itemsize_bytes, _CANARY, np.uint8)
    guarded = room.view(spec.dtype.numpy)
    y = guarded[_GUARD_ELEMENTS:-_GUARD_ELEMENTS]
    backend.compute(Gradient(spec, predict, label, dout, y))
    kind = f"{spec.dtype.name}, {spec.reduction.text}, {'scalar' if spec.scalar_dout else 'full'} dout"
    wrong = np.flatnonzero(_bits(y, spec.dtype) != _bits(expected, spec.dtype))
    if wrong.size:
        first = int(wrong[0])
        raise VerificationFailed(
            f"{backend.name} ({backend.device}) computed a wrong gradient for {kind}: {wrong.size} of {_ELEMENTS} "
            f"elements differ from the formula, the first at {first}: {y[first]!s} instead of {expected[first]!s}"
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
