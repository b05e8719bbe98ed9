"""Fast address of the first element of an array.

The documented ways, `array.ctypes.data` and `array.__array_interface__`, take 0.9 us, this one 0.1 us. A small gradient
needs eight addresses.
"""

from __future__ import annotations

import ctypes
import sys
from functools import cache

import numpy as np

from mse_grad.tensor import Array

__all__ = ["is_known", "pointer_of"]

# NumPy's ABI puts the address right behind the object header of the array's struct, PyArrayObject. In CPython the id of
# an object is the address of its struct.
_HEADER_BYTES = object.__basicsize__
_pointer_at = ctypes.c_void_p.from_address


def pointer_of(array: Array) -> ctypes.c_void_p:
    """Returns the address of the first element; the array must outlive its use. Call it only if `is_known()`."""
    return _pointer_at(id(array) + _HEADER_BYTES)


@cache
def is_known() -> bool:
    """Whether arrays have the layout in memory that `pointer_of` needs, as in CPython; looks at an array once."""
    if sys.implementation.name != "cpython":
        return False
    probe = np.zeros(1, np.uint8)
    address: int = probe.__array_interface__["data"][0]
    return pointer_of(probe).value == address
