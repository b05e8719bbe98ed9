"""Operands from .npy files, mapped or read from a pipe."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from mse_grad.rules import check_dout_shape, check_same_dtype, check_same_shape, element_count
from mse_grad.tensor import BFLOAT16, Array, DType, dtype_of

__all__ = ["FileOperands", "UnusableFile", "load"]


class UnusableFile(ValueError):
    """A file holds no array, or an array whose elements cannot be converted."""


class _Pipe(NamedTuple):
    """A stream without a file descriptor: NumPy reads from it byte by byte and does not seek."""

    read: Callable[[int], bytes]


class FileOperands(NamedTuple):
    """Operands of one gradient, flat and in the order of their elements in memory.

    Attributes:
        dtype: Element type of the gradient; parts of the arrays are converted to it.
        shape: Shape of predict and of the gradient.
        is_fortran: Whether the elements are in Fortran order, as in the files.
        predict: Prediction.
        label: Target.
        dout: Upstream gradient of the same length, or a single element of rank 0.
    """

    dtype: DType
    shape: tuple[int, ...]
    is_fortran: bool
    predict: Array
    label: Array
    dout: Array

    @classmethod
    def of(cls, predict: Array, label: Array, dout: Array | float, dtype: DType | None) -> FileOperands:
        """Returns the operands, checked by the rules of the operator.

        Args:
            predict: Prediction.
            label: Target.
            dout: Upstream gradient, or a number.
            dtype: Element type to convert to; None if all operands have one already.

        Raises:
            ContractError: A rule of the operator is broken; names it by reason and field.
        """
        if dtype is None:
            dtype = dtype_of(predict.dtype, field="predict")
            check_same_dtype(dtype, dtype_of(label.dtype, field="label"), field="label")
            if isinstance(dout, np.ndarray):
                check_same_dtype(dtype, dtype_of(dout.dtype, field="dout"), field="dout")
        element_count(predict.shape, dtype, field="predict")
        check_same_shape(predict.shape, label.shape)
        upstream = np.asarray(dout, None if isinstance(dout, np.ndarray) else np.float64)
        is_scalar = check_dout_shape(predict.shape, upstream.shape)
        if is_scalar:
            upstream = upstream.reshape(())
        full = [predict, label] if is_scalar else [predict, label, upstream]
        is_fortran = all(array.flags.f_contiguous for array in full)
        is_fortran = is_fortran and not all(array.flags.c_contiguous for array in full)
        flat = [(array.T if is_fortran else array).reshape(-1) for array in full]
        return cls(dtype, predict.shape, is_fortran, flat[0], flat[1], upstream if is_scalar else flat[2])

    def part(self, start: int, stop: int) -> tuple[Array, Array, Array]:
        """Returns predict, label and dout of these elements, in the dtype of the gradient."""
        dout = self.dout if self.dout.ndim == 0 else self.dout[start:stop]
        with np.errstate(over="ignore"):  # values out of the range of a narrower dtype become infinity
            predict, label, dout = (
                array.astype(self.dtype.numpy, copy=False)
                for array in (self.predict[start:stop], self.label[start:stop], dout)
            )
        return predict, label, dout


def load(path: str, *, dtype: DType | None, stdin: BinaryIO) -> Array:
    """Returns the array in a .npy file: a regular file is mapped, anything else is read to the end of the array.

    Args:
        path: The file; "-" for the next array in `stdin`.
        dtype: Element type that it will be converted to, or None.
        stdin: Standard input.

    Raises:
        UnusableFile: It is no .npy file, or its elements are no real numbers.
        OSError: It cannot be read.
    """
    try:
        if path == "-":
            array = _read(stdin)
        elif stat.S_ISREG(os.stat(path).st_mode):
            array = np.asarray(np.lib.format.open_memmap(path, mode="r"))
        else:
            with open(path, "rb") as stream:
                array = _read(stream)
    except OSError:
        raise
    except Exception as wrong:  # NumPy passes on whatever Python's parser and the arithmetic of shapes raise
        raise UnusableFile(f"{path} is not a .npy file of numbers: {str(wrong) or type(wrong).__name__}") from wrong
    if array.dtype == np.dtype("V2"):  # the format has no bfloat16, and numpy.save writes its bytes
        if dtype is not BFLOAT16:
            raise UnusableFile(f"{path} has 2-byte elements without a type; if they are bfloat16, add --dtype bfloat16")
        return array.view(BFLOAT16.numpy)
    if array.dtype.kind not in "fiub":
        raise UnusableFile(f"{path} has dtype {array.dtype}; it must have real numbers")
    return array


def _read(stream: BinaryIO) -> Array:
    pipe: Any = _Pipe(stream.read)  # numpy.fromfile, which NumPy would use for a file object, fails on pipes
    array: Array = np.lib.format.read_array(pipe, allow_pickle=False)
    return array
