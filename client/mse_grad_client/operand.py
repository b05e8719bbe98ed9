"""Conversion of a caller's objects to the arrays of operands and of `out`."""

from __future__ import annotations

import array
import operator
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from mse_grad.reasons import ContractError, Reason
from mse_grad.tensor import Array, DType
from mse_grad_client.kinds import check_complete, may_be_incomplete
from mse_grad_client.options import shown

__all__ = ["dout_array", "operand_array", "out_array", "result_array", "whole_number"]

# Sequences whose elements are no arrays.
_FLAT = (str, bytes, bytearray, memoryview, range, array.array)
# How an object offers its elements to NumPy; DLPack is asked for only if it has none of these.
_NUMPY_PROTOCOLS = ("__array__", "__array_interface__", "__array_struct__", "__buffer__")
_DLPACK_CPU = 1


def operand_array(given: ArrayLike, *, field: str) -> Array:
    """Returns the elements of `given` as an ordinary array, without a copy if it is an array.

    Args:
        given: An array, or an object that NumPy converts to one: a list, a number, an object with `__array__`,
            `__array_interface__` or DLPack. DLPack copies the elements from another device.
        field: Its name for error texts, e.g. "label".

    Raises:
        ContractError: OPERAND_UNSUPPORTED if it carries more than plain elements, such as a masked array or missing
            values, or if NumPy cannot convert it.
    """
    if type(given) is np.ndarray:
        return given
    _check_is_elements(given, field=field)
    try:
        made = _converted(given)
    except (TypeError, ValueError, RuntimeError, OverflowError, BufferError) as cause:
        raise ContractError(
            Reason.OPERAND_UNSUPPORTED,
            field,
            f"{field} is a {type(given).__name__}, which NumPy cannot convert to an array: {cause}",
        ) from cause
    if made is not given:
        _check_is_elements(made, field=field)  # the result of an `__array__` method
    return np.asarray(made)


def dout_array(given: ArrayLike, dtype: DType) -> Array:
    """Returns dout as an array: a Python number with `dtype`, any other object as `operand_array` returns it.

    A number larger than the largest of `dtype` becomes infinity, as in NumPy and PyTorch.

    Raises:
        ContractError: OPERAND_UNSUPPORTED as for `operand_array`, or if an integer is larger than any float64.
    """
    # np.float64 is a subclass of float, but an array scalar with a dtype.
    if not isinstance(given, (int, float)) or isinstance(given, (bool, np.generic)):
        return operand_array(given, field="dout")
    try:
        with np.errstate(over="ignore"):
            return np.asarray(float(given), dtype=dtype.numpy)
    except OverflowError:
        raise ContractError(
            Reason.OPERAND_UNSUPPORTED,
            "dout",
            f"dout is an integer of {given.bit_length()} bits; it must be less than 2^1024, as every float64 is",
        ) from None


def out_array(given: object, predict: Array) -> Array:
    """Returns the array for a gradient of `predict`, which shares the memory of `given`.

    Raises:
        ContractError: OPERAND_UNSUPPORTED if it is not an array, or carries more than plain elements; DTYPE_MISMATCH or
            SHAPE_MISMATCH if it does not fit predict; OUT_NOT_WRITABLE if it is read-only or if several of its elements
            share memory.
    """
    if not isinstance(given, np.ndarray):
        raise ContractError(
            Reason.OPERAND_UNSUPPORTED, "out", f"out is a {type(given).__name__}; it must be a NumPy array"
        )
    _check_is_elements(given, field="out")
    if given.dtype != predict.dtype:
        raise ContractError(
            Reason.DTYPE_MISMATCH,
            "out",
            f"predict has dtype {predict.dtype}, out has {given.dtype}; they must be equal",
        )
    if given.shape != predict.shape:
        raise ContractError(
            Reason.SHAPE_MISMATCH,
            "out",
            f"predict has shape {list(predict.shape)}, out has {list(given.shape)}; they must be equal",
        )
    if not given.flags.writeable:
        raise ContractError(
            Reason.OUT_NOT_WRITABLE, "out", "out is read-only; it must be writable, such as a copy: out.copy()"
        )
    if not given.flags.c_contiguous and _shares_elements(given):
        raise ContractError(
            Reason.OUT_NOT_WRITABLE,
            "out",
            "several elements of out share memory; each must have its own, as in a copy: out.copy()",
        )
    return np.asarray(given)


def result_array(target: Array | None, predict: Array, label: Array, dout: Array, dtype: DType) -> Array:
    """Returns the array that answers are written to: `target` if it can take them as they come, else a new one."""
    # If the target overlaps an operand, an early answer would change the operand that a retry sends. Then the target is
    # filled at the end.
    overlap = np.may_share_memory
    if (
        target is not None
        and target.flags.c_contiguous
        and target.dtype == dtype.numpy
        and not (overlap(target, predict) or overlap(target, label) or overlap(target, dout))
    ):
        return target
    return np.empty(predict.shape, dtype=dtype.numpy)


def _converted(given: Any) -> Array:
    """Returns `given` as NumPy converts it, without a copy if its memory is the host's."""
    if not hasattr(given, "__dlpack_device__"):
        return np.asanyarray(given)
    if any(hasattr(given, name) for name in _NUMPY_PROTOCOLS):
        try:
            return np.asanyarray(given)
        except TypeError as refused:
            try:
                return _from_dlpack(given)  # CuPy converts by DLPack only
            except (TypeError, ValueError, RuntimeError, BufferError):
                raise refused from None
    return _from_dlpack(given)


def _from_dlpack(given: Any) -> Array:
    kind, _ = given.__dlpack_device__()
    if kind == _DLPACK_CPU:
        return np.from_dlpack(given)
    copied: Array = np.from_dlpack(given, device="cpu")  # from NumPy 2.1 on; an older one raises TypeError
    return copied


def _check_is_elements(given: Any, *, field: str) -> None:
    """Raises ContractError if `given`, or an array in it, computes differently from its elements or misses some."""
    if type(given) is np.ndarray:
        return
    kinds = {type(given)}
    if not isinstance(given, (np.ndarray, np.generic)):
        check_complete(given, field=field)
    if _is_nested(type(given)):
        kinds = set(map(type, given))
        if any(map(may_be_incomplete, kinds)):
            for each in given:
                check_complete(each, field=field)
        if any(map(_is_nested, kinds)):
            for each in given:
                _check_is_elements(each, field=field)
    for kind in kinds:
        if not issubclass(kind, np.ndarray) or not _computes_its_own_way(kind):
            continue
        if issubclass(kind, np.ma.MaskedArray):
            text = f"{field} is a masked array, and a gradient has no mask; fill it in, as in {field}.filled(0)"
        else:
            text = (
                f"{field} is a {kind.__name__}, which has its own arithmetic; pass its elements, as in "
                f"np.asarray({field})"
            )
        raise ContractError(Reason.OPERAND_UNSUPPORTED, field, text)


def _is_nested(kind: type[object]) -> bool:
    """Whether NumPy iterates over such an object, whose elements may be arrays."""
    return issubclass(kind, Sequence) and not issubclass(kind, _FLAT)


def _shares_elements(out: Array) -> bool:
    """Whether two elements of an array share memory."""
    axes = sorted((abs(stride), extent) for stride, extent in zip(out.strides, out.shape, strict=True) if extent > 1)
    if not out.size or not axes:
        return False
    span_bytes = out.itemsize
    for stride, extent in axes:
        if not stride:
            return True
        if stride < span_bytes:
            break
        span_bytes += stride * (extent - 1)
    else:
        return False
    # The axes are not nested in each other, which is rare: compare the offsets of all elements.
    offsets = np.zeros((), np.int64)
    for stride, extent in axes:
        offsets = np.add.outer(offsets, stride * np.arange(extent))
    return bool(np.diff(np.sort(offsets, axis=None)).min() < out.itemsize)


def _computes_its_own_way(kind: type[np.ndarray]) -> bool:
    # Subclasses with masks or units override these. Other overrides, such as those of np.matrix, do not affect the
    # formula.
    return kind.__array_ufunc__ is not np.ndarray.__array_ufunc__ or kind.__sub__ is not np.ndarray.__sub__


def whole_number(numel: object) -> int:
    """Returns `numel` as an int; raises ContractError NUMEL_INVALID if it is no whole number of 64 bits."""
    try:
        number = operator.index(numel)  # type: ignore[arg-type]
    except TypeError:
        raise ContractError(
            Reason.NUMEL_INVALID,
            "numel",
            f"numel is {numel!r}; it must be a whole number, or 0 for all elements of predict",
        ) from None
    if number.bit_length() > 64:  # Python may refuse to write it out
        raise ContractError(Reason.NUMEL_INVALID, "numel", f"numel is {shown(numel)}; it must be in [0, 2^63 - 1]")
    return number
