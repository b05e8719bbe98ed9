"""Kinds of arrays besides NumPy's: elements that NumPy would replace, and the conversion of a gradient to a kind.

It imports none of the libraries: a caller that has their arrays has imported them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

import numpy as np

from mse_grad.reasons import ContractError, Reason
from mse_grad.tensor import Array

__all__ = ["Restore", "are_tensors", "check_complete", "may_be_incomplete", "restore_of"]

Restore: TypeAlias = Callable[[Array], Any]

# The attributes that `check_complete` looks at.
_SIGNS = ("null_count", "isna", "schema")


def are_tensors(*operands: object) -> bool:
    """Returns whether one of `operands` is a PyTorch tensor."""
    tensor = getattr(sys.modules.get("torch"), "Tensor", ())
    return any(isinstance(operand, tensor) for operand in operands)


def restore_of(predict: Any, label: Any, dout: Any) -> Restore | None:
    """Returns the function that makes an array of predict's kind from a gradient; None for NumPy's kind.

    Raises:
        ContractError: OPERAND_UNSUPPORTED if predict and another operand have labelled axes that differ.
    """
    if isinstance(predict, (np.ndarray, np.generic, int, float, list, tuple)):
        return None
    if _is_pandas(predict):
        for field, other in (("label", label), ("dout", dout)):
            _check_aligned(predict, other, field=field)
        return partial(_to_pandas, predict)
    if isinstance(predict, _classes("pyarrow", "Array", "ChunkedArray")):
        return partial(_to_arrow, predict)
    if isinstance(predict, _classes("cupy", "ndarray")):
        return partial(_to_cupy, predict)
    if hasattr(predict, "__array_namespace__"):
        return partial(_to_namespace, predict)
    return None


def may_be_incomplete(kind: type[object]) -> bool:
    """Returns whether `check_complete` has anything to check in objects of this type."""
    return any(hasattr(kind, name) for name in _SIGNS)


def check_complete(given: Any, *, field: str) -> None:
    """Raises ContractError OPERAND_UNSUPPORTED if NumPy would silently make other elements of `given`.

    NumPy makes NaN of a missing value of Arrow and pandas, ignores the mask of an array interface, and gives columns of
    several dtypes a common one.
    """
    if hasattr(given, "schema") and hasattr(given, "columns"):
        raise _refused(field, f"{field} is a {type(given).__name__}; pass one of its columns")
    names = set(map(str, _dtypes(given)))
    if len(names) > 1:
        raise _refused(
            field,
            f"{field} has columns of {', '.join(sorted(names))}; they must have one dtype, as after "
            f"{field}.astype('float32')",
        )
    interface = getattr(given, "__array_interface__", None)
    if isinstance(interface, dict) and interface.get("mask") is not None:
        raise _refused(field, f"{field} has a mask in its array interface, and a gradient has no mask; fill it in")
    missing = _missing(given)
    if missing:
        raise _refused(field, f"{field} has {missing} missing values, and a gradient has none; fill them in")


def _missing(given: Any) -> int:
    nulls = getattr(given, "null_count", 0)
    if callable(nulls):
        nulls = nulls()
    if isinstance(nulls, int) and nulls:
        return nulls
    # The NaN of an ordinary float dtype is a number like any other; extension dtypes tell missing values apart.
    if not hasattr(given, "isna") or all(isinstance(each, np.dtype) for each in _dtypes(given)):
        return 0
    return int(np.sum(np.asarray(given.isna())))


def _dtypes(given: Any) -> list[Any]:
    """Returns the dtype of each column; of an array that has none, its own."""
    dtypes: Any = getattr(given, "dtypes", None)
    return list(dtypes) if hasattr(dtypes, "__iter__") else [getattr(given, "dtype", None)]


def _classes(library: str, *names: str) -> tuple[type, ...]:
    """Returns classes of a library that is imported; none if it is not."""
    module = sys.modules.get(library)
    return tuple(getattr(module, name) for name in names if hasattr(module, name))


def _is_pandas(given: Any) -> bool:
    return isinstance(given, _classes("pandas", "Series", "DataFrame"))


def _check_aligned(predict: Any, other: Any, *, field: str) -> None:
    # pandas itself would pair the elements of equal labels; the operator pairs those of equal positions.
    if not _is_pandas(other) or other.shape != predict.shape:
        return
    if not all(mine.equals(theirs) for mine, theirs in zip(predict.axes, other.axes, strict=True)):
        raise _refused(
            field,
            f"{field} has a different index from predict; align it, as in {field}.reindex_like(predict), or pass "
            f"{field}.to_numpy()",
        )


def _to_pandas(predict: Any, gradient: Array) -> Any:
    pandas = sys.modules["pandas"]
    if isinstance(predict, pandas.DataFrame):
        return pandas.DataFrame(gradient, index=predict.index, columns=predict.columns, copy=False)
    # An extension dtype of floats, such as Float32; not a category, which has no other values than those of predict.
    is_extension = not isinstance(predict.dtype, np.dtype) and predict.dtype.kind == "f"
    dtype = predict.dtype if is_extension else None
    return pandas.Series(gradient, index=predict.index, name=predict.name, dtype=dtype, copy=False)


def _to_arrow(predict: Any, gradient: Array) -> Any:
    pyarrow = sys.modules["pyarrow"]
    made = pyarrow.array(gradient, type=predict.type)
    return made if isinstance(predict, pyarrow.Array) else pyarrow.chunked_array([made])


def _to_cupy(predict: Any, gradient: Array) -> Any:
    with predict.device:
        return sys.modules["cupy"].asarray(gradient)


def _to_namespace(predict: Any, gradient: Array) -> Any:
    """By the array API standard, https://data-apis.org/array-api, as of 2023.12."""
    return predict.__array_namespace__().asarray(gradient, device=predict.device)


def _refused(field: str, message: str) -> ContractError:
    return ContractError(Reason.OPERAND_UNSUPPORTED, field, message)
