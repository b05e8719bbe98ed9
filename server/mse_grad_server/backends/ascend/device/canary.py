"""Canary check of each block that came back: did the device compute it?

A lost launch, a kernel that stops half-way or writes zeros, and a copy that moves nothing report no error. So the host
computes the first and the last four elements of each block again. If one of them differs, a quarter of the elements
beside it must equal the formula: of an old gradient one element in a few hundred does, by chance. The same holds for
elements somewhere in one block in `_SUSPECT_EVERY` (pipeline.py).
The first elements of y also hold a pattern on their way to the device, so that an old gradient of the same operands
does not look computed.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import ml_dtypes
import numpy as np

from mse_grad import formula
from mse_grad.tensor import BFLOAT16, FLOAT16, FLOAT32, Array, DType
from mse_grad_server.backends.ascend.acl.error_codes import WrongGradient
from mse_grad_server.backends.ascend.acl.runtime import DataType
from mse_grad_server.backends.ascend.device.blocks import LaunchKey, Layout

__all__ = ["CANARY", "require_gradient"]

CANARY = 0xA5
"""Byte of the pattern. An element of such bytes is a small negative number in every dtype."""

# Elements that are compared at each end. One alone equals that of another gradient too often: in bfloat16, once in 300.
_END_ELEMENTS = 4
# Part of the elements that must equal the formula. A chip that rounds otherwise changes fewer than half of the bits.
_LEAST_EQUAL = 0.25

_DTYPES = {DataType.FLOAT: FLOAT32, DataType.FLOAT16: FLOAT16, DataType.BF16: BFLOAT16}


def require_gradient(
    key: LaunchKey, layout: Layout, memory: Array, *, keeps_subnormals: bool, sample: int | None = None
) -> None:
    """Raises WrongGradient if the start or the end of a block does not look computed.

    In each part, a quarter of correct elements is enough: this check looks for a device that computes nothing or stops
    half-way, not for wrong elements. An element is no witness if the result may differ between chips: infinite or NaN
    on a chip that saturates, subnormal (as an intermediate too) on a chip that may flush.

    Args:
        key: Kind of launch.
        layout: Layout of the block.
        memory: Bytes of the block, which still hold the operands.
        keeps_subnormals: Whether the chip is known to flush none.
        sample: Any number, which chooses a further part of the block to check; None for none.
    """
    # At most half of the block, so that no part has elements of both halves.
    n = min(layout.canary_bytes // key.item_bytes, max(1, key.elements // 2))
    last = key.elements - n
    if not _ends_are_right(key, layout, memory):
        for first in {0, last}:
            _require_part(key, layout, memory, first=first, n=n, keeps_subnormals=keeps_subnormals)
    if sample is not None:
        first = sample % (last + 1)
        _require_part(key, layout, memory, first=first, n=n, keeps_subnormals=keeps_subnormals)


def _ends_are_right(key: LaunchKey, layout: Layout, memory: Array) -> bool:
    """Returns whether the first and the last elements of y are what the formula says, bit for bit."""
    dtype, c = _arithmetic(key)
    count = min(_END_ELEMENTS, max(1, key.elements // 2))
    strides = (layout.operand_bytes - count * key.item_bytes, key.item_bytes)
    ends = (2 if strides[0] else 1, count)
    numpy = dtype.numpy
    predict = np.ndarray(ends, numpy, memory, 0, strides)
    label = np.ndarray(ends, numpy, memory, layout.label, strides)
    dout = np.ndarray((1, 1) if key.scalar_dout else ends, numpy, memory, layout.dout, strides)
    y = np.ndarray(ends, numpy, memory, layout.y, strides)
    expected = np.empty(ends, numpy)
    formula.gradient_into(expected, predict, label, dout, c=c, dtype=dtype)
    return y.tobytes() == expected.tobytes()


def _require_part(key: LaunchKey, layout: Layout, memory: Array, *, first: int, n: int, keeps_subnormals: bool) -> None:
    dtype, c = _arithmetic(key)
    at = first * key.item_bytes
    predict, label, y = (_elements(memory, start + at, n, dtype) for start in (0, layout.label, layout.y))
    dout = (
        _elements(memory, layout.dout, 1, dtype) if key.scalar_dout else _elements(memory, layout.dout + at, n, dtype)
    )
    expected = np.empty(n, dtype.numpy)
    formula.gradient_into(expected, predict, label, dout, c=c, dtype=dtype)
    bits = f"u{key.item_bytes}"
    are_equal = y.view(bits) == expected.view(bits)
    count = int(np.count_nonzero(are_equal))
    if count >= _LEAST_EQUAL * n:
        return
    witnesses = ~are_equal & _witnesses(predict, label, dout, c=c, expected=expected, keeps_subnormals=keeps_subnormals)
    if count < _LEAST_EQUAL * (count + np.count_nonzero(witnesses)):
        witness = int(np.argmax(witnesses))
        raise WrongGradient(
            f"the device did not compute a block of {key.elements} elements, {dtype.name}, {key.reduction.text}: "
            f"of the {n} elements from element {first}, {count or 'none'} {'equals' if count < 2 else 'equal'} the "
            f"formula; element {first + witness} is {y[witness]!s} instead of {expected[witness]!s}"
        )


@lru_cache(maxsize=1024)
def _arithmetic(key: LaunchKey) -> tuple[DType, float]:
    dtype = _DTYPES[key.data_type]
    return dtype, formula.coefficient(key.reduction, key.numel, dtype)


def _witnesses(
    predict: Array, label: Array, dout: Array, *, c: float, expected: Array, keeps_subnormals: bool
) -> Array:
    with np.errstate(all="ignore"):
        wide = [values.astype(np.float32) for values in (predict, label, dout)]
        difference = wide[0] - wide[1]
        sound = _is_sound(expected, keeps_subnormals=keeps_subnormals)
        for values in (*wide, difference, difference * np.float32(c)):
            sound = sound & _is_sound(values, keeps_subnormals=keeps_subnormals)
    return sound


def _is_sound(values: Array, *, keeps_subnormals: bool) -> Array:
    limits: Any = ml_dtypes.finfo(values.dtype)  # type: ignore[no-untyped-call]
    magnitude = np.abs(values)
    is_small: Array = magnitude <= limits.max
    return is_small if keeps_subnormals else is_small & ((magnitude == 0) | (magnitude >= limits.smallest_normal))


def _elements(memory: Array, offset: int, count: int, dtype: DType) -> Array:
    return memory[offset : offset + count * dtype.itemsize_bytes].view(dtype.numpy)
