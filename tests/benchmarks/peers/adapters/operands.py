"""Operands of a run, which the driver gives to the clients as files. Needs NumPy, and ml_dtypes for bfloat16."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

__all__ = ["Array", "Call", "Connect", "Operands", "Prepare"]

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

_NAMES = ("predict", "label", "dout", "golden")


@dataclass(frozen=True)
class Operands:
    """Three tensors of one dimension, and the gradient that every row must compute.

    Attributes:
        items: Number of equal gradients that the tensors hold, one after another.
    """

    predict: Array
    label: Array
    dout: Array
    golden: Array
    items: int = 1

    def save(self, folder: Path) -> None:
        """Writes one file for each tensor."""
        for name in _NAMES:
            np.save(folder / f"{name}.npy", getattr(self, name))

    @classmethod
    def load(cls, folder: Path, *, items: int) -> Operands:
        """Returns the operands that `save` wrote; the golden gradient stays in its file until it is read."""
        predict, label, dout = (_typed(np.load(folder / f"{name}.npy")) for name in _NAMES[:3])
        return cls(predict, label, dout, _typed(np.load(folder / "golden.npy", mmap_mode="r")), items)


def _typed(array: Array) -> Array:
    if array.dtype.kind != "V":
        return array
    from ml_dtypes import bfloat16  # imported here: the environments of the peers lack it

    return array.view(bfloat16)  # in NumPy's files it is a type of two bytes without a name


# An adapter gives its clients a function that connects. The function returns another, which prepares operands and
# returns the call that is timed. The call returns the gradient, or one gradient for each item.
Call: TypeAlias = Callable[[], "Array | list[Array]"]
Prepare: TypeAlias = Callable[[Operands], Call]
Connect: TypeAlias = Callable[[str], Prepare]
