"""Canary check of the first elements of each block that came back: did the device compute at all?

A lost launch, a kernel that writes zeros and a copy that moves nothing report no error. So the first elements of y hold
a pattern on their way to the device. On the way back, the check computes the first elements again if the first one
still has the pattern or is zero, and for one block in `_SUSPECT_EVERY` (pipeline.py) anyway: at least one of them must
equal the formula. Measured on a busy core: 2 us per block for pattern and check, 20 to 40 us to compute again.
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

# The pattern and both zeros, in elements of two and of four bytes.
_LIFELESS = frozenset(
    bits for size in (2, 4) for bits in (bytes([CANARY] * size), bytes(size), bytes([*[0] * (size - 1), 0x80]))
)
_DTYPES = {DataType.FLOAT: FLOAT32, DataType.FLOAT16: FLOAT16, DataType.BF16: BFLOAT16}


def require_gradient(key: LaunchKey, layout: Layout, memory: Array, *, is_suspected: bool) -> None:
    """Raises WrongGradient if no element shows that the device computed the block.

    One correct element is enough: this check looks for a device that does nothing, not for wrong elements. An element
    is no witness if the result may differ between chips: infinite or NaN on a chip that saturates, subnormal (as an
    intermediate too) on a chip that flushes.

    Args:
        key: Kind of launch.
        layout: Layout of the block.
        memory: Bytes of the block, which still hold the operands.
        is_suspected: Whether to compute elements again even if the first one looks computed.
    """
    first_bits = memory[layout.y : layout.y + key.item_bytes].tobytes()
    if not is_suspected and first_bits not in _LIFELESS:
        return
    dtype, c = _arithmetic(key)
    n = layout.canary_bytes // key.item_bytes
    predict, label, y = (_elements(memory, at, n, dtype) for at in (0, layout.label, layout.y))
    dout = _elements(memory, layout.dout, 1 if key.scalar_dout else n, dtype)
    expected = np.empty(n, dtype.numpy)
    formula.gradient_into(expected, predict, label, dout, c=c, dtype=dtype)
    bits = f"u{key.item_bytes}"
    if (y.view(bits) == expected.view(bits)).any():
        return
    witnesses = _witnesses(predict, label, dout, c=c, expected=expected)
    if witnesses.any():
        first = int(np.argmax(witnesses))
        raise WrongGradient(
            f"the device did not compute a block of {key.elements} elements, {dtype.name}, {key.reduction.text}: none "
            f"of the first {n} is what the formula says, element {first} is {y[first]!s} for {expected[first]!s}"
        )


@lru_cache(maxsize=1024)
def _arithmetic(key: LaunchKey) -> tuple[DType, float]:
    dtype = _DTYPES[key.data_type]
    return dtype, formula.coefficient(key.reduction, key.numel, dtype)


def _witnesses(predict: Array, label: Array, dout: Array, *, c: float, expected: Array) -> Array:
    with np.errstate(all="ignore"):
        wide = [values.astype(np.float32) for values in (predict, label, dout)]
        difference = wide[0] - wide[1]
        sound = _is_sound(expected)
        for values in (*wide, difference, difference * np.float32(c)):
            sound = sound & _is_sound(values)
    return sound


def _is_sound(values: Array) -> Array:
    limits: Any = ml_dtypes.finfo(values.dtype)  # type: ignore[no-untyped-call]
    magnitude = np.abs(values)
    sound: Array = (magnitude == 0) | ((magnitude >= limits.smallest_normal) & (magnitude <= limits.max))
    return sound


def _elements(memory: Array, offset: int, count: int, dtype: DType) -> Array:
    return memory[offset : offset + count * dtype.itemsize_bytes].view(dtype.numpy)
