"""What is computed, handed from the driver to the clients as files. Needs NumPy and nothing else."""

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
    """Three tensors of one dimension, and the gradient that everyone must find.

    Attributes:
        items: How many equal gradients the tensors hold, one after another.
    """

    predict: Array
    label: Array
    dout: Array
    golden: Array
    items: int = 1

    def save(self, folder: Path) -> None:
        """Writes one file a tensor."""
        for name in _NAMES:
            np.save(folder / f"{name}.npy", getattr(self, name))

    @classmethod
    def load(cls, folder: Path, *, items: int) -> Operands:
        """Returns what `save` wrote; the golden gradient stays in its file until it is looked at."""
        predict, label, dout = (np.load(folder / f"{name}.npy") for name in _NAMES[:3])
        return cls(predict, label, dout, np.load(folder / "golden.npy", mmap_mode="r"), items)


# A way gives its clients a function that connects. What that returns prepares operands, and gives the call that is
# timed; this returns the gradient, or one for each item.
Call: TypeAlias = Callable[[], "Array | list[Array]"]
Prepare: TypeAlias = Callable[[Operands], Call]
Connect: TypeAlias = Callable[[str], Prepare]
