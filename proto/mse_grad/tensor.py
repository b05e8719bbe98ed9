"""Table of the dtypes, and conversion between arrays and bytes.

The native byte order must be little endian, as on all supported hosts (x86-64, aarch64).
Thread safety: everything here is immutable or pure.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Any, TypeAlias

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from mse_grad.reasons import ContractError, Reason

__all__ = [
    "BFLOAT16",
    "DTYPES",
    "FLOAT16",
    "FLOAT32",
    "FLOAT64",
    "Array",
    "Buffer",
    "DType",
    "Reduction",
    "dtype_of",
    "dtype_of_wire",
    "elements",
    "little_endian_bytes",
]

Array: TypeAlias = NDArray[Any]
Buffer: TypeAlias = bytes | bytearray | memoryview


class Reduction(IntEnum):
    """Reduction of the loss; the values are those of `mse_grad.v1.Reduction`."""

    NONE = 1
    MEAN = 2
    SUM = 3

    @classmethod
    def parse(cls, text: object) -> Reduction:
        """Returns the reduction that `text` ("none", "mean" or "sum") names.

        Raises:
            ContractError: REDUCTION_UNKNOWN if it names none.
        """
        for reduction in cls:
            if isinstance(text, str) and text == reduction.text:
                return reduction
        raise ContractError(
            Reason.REDUCTION_UNKNOWN, "reduction", f"reduction is {text!r}; it must be 'none', 'mean' or 'sum'"
        )

    @classmethod
    def of_wire(cls, number: int) -> Reduction:
        """Returns the reduction with the number of `mse_grad.v1.Reduction`; raises ContractError for another."""
        if number not in (1, 2, 3):
            raise ContractError(
                Reason.REDUCTION_UNKNOWN,
                "reduction",
                f"reduction is {number}; it must be REDUCTION_NONE (1), REDUCTION_MEAN (2) or REDUCTION_SUM (3)",
            )
        return cls(number)

    @property
    def text(self) -> str:
        """Name for users: "none", "mean" or "sum"."""
        return self.name.lower()


@dataclass(frozen=True, eq=False)  # compared by identity, as there is one object for each
class DType:
    """An element type of the contract.

    Attributes:
        name: Name for users, e.g. "bfloat16".
        wire: Number of `mse_grad.v1.DataType`.
        numpy: NumPy's (or ml_dtypes') dtype in native byte order.
        itemsize_bytes: Bytes per element.
        compute: NumPy dtype of every intermediate of the formula.
    """

    name: str
    wire: int
    numpy: np.dtype[Any]
    itemsize_bytes: int
    compute: np.dtype[Any]

    def __reduce__(self) -> str:
        return self.name.upper()  # a copy or an unpickled one is the constant below


FLOAT32 = DType("float32", 1, np.dtype(np.float32), 4, np.dtype(np.float32))
FLOAT16 = DType("float16", 2, np.dtype(np.float16), 2, np.dtype(np.float32))
BFLOAT16 = DType("bfloat16", 3, np.dtype(ml_dtypes.bfloat16), 2, np.dtype(np.float32))
FLOAT64 = DType("float64", 4, np.dtype(np.float64), 8, np.dtype(np.float64))
DTYPES = (FLOAT32, FLOAT16, BFLOAT16, FLOAT64)

_BYTE = np.dtype(np.uint8)
_BY_NUMPY = {dtype.numpy: dtype for dtype in DTYPES}
_BY_WIRE = {dtype.wire: dtype for dtype in DTYPES}
_NAMES = ", ".join(dtype.name for dtype in DTYPES)


def dtype_of(numpy_dtype: np.dtype[Any], *, field: str) -> DType:
    """Returns the contract's dtype for NumPy's, in any byte order; raises ContractError DTYPE_UNKNOWN for others."""
    dtype = _BY_NUMPY.get(numpy_dtype if numpy_dtype.isnative else numpy_dtype.newbyteorder("="))
    if dtype is None:
        advice = ""
        if numpy_dtype.names:
            advice = f"; pass one field of it, as in {field}[{numpy_dtype.names[0]!r}]"
        elif numpy_dtype.hasobject:
            advice = f"; convert its Python objects, as in {field}.astype('float32')"
        raise ContractError(
            Reason.DTYPE_UNKNOWN, field, f"{field} has dtype {numpy_dtype}; it must be one of {_NAMES}{advice}"
        )
    return dtype


def dtype_of_wire(number: int, *, field: str) -> DType:
    """Returns the dtype with the number of `mse_grad.v1.DataType`; raises ContractError DTYPE_UNKNOWN for others."""
    dtype = _BY_WIRE.get(number)
    if dtype is None:
        raise ContractError(
            Reason.DTYPE_UNKNOWN,
            field,
            f"{field} has dtype number {number}; it must be one of 1 to {len(DTYPES)} ({_NAMES})",
        )
    return dtype


def little_endian_bytes(array: Array) -> memoryview:
    """Returns the elements of `array` in C order, little endian, as bytes; a view if the array has that layout."""
    if array.dtype.byteorder == ">":
        array = array.astype(array.dtype.newbyteorder("<"))
    return array.ravel().view(_BYTE).data


def elements(data: Buffer, dtype: DType) -> Array:
    """Returns a one-dimensional view of little-endian `data`; its length must be a multiple of the item size."""
    return np.frombuffer(data, dtype=dtype.numpy)
