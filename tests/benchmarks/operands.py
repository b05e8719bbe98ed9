"""What is computed in a benchmark."""

from __future__ import annotations

from dataclasses import dataclass

from mse_grad.tensor import Array, DType, Reduction
from support.operands import expected, operands

__all__ = ["REDUCTION", "Operands"]

# Every result is a normal number in every dtype; with mean, float16 would measure how a CPU handles subnormals.
REDUCTION = Reduction.SUM


@dataclass(frozen=True)
class Operands:
    """Three tensors of one dimension, and the gradient that everyone must find."""

    dtype: DType
    predict: Array
    label: Array
    dout: Array
    golden: Array

    @classmethod
    def make(cls, elements: int, dtype: DType) -> Operands:
        """Returns normally distributed operands, the same in every run."""
        given = operands((elements,), dtype)
        return cls(dtype, *given, expected(*given, REDUCTION.text))

    @property
    def elements(self) -> int:
        """Elements of each tensor."""
        return int(self.predict.size)

    @property
    def moved_bytes(self) -> int:
        """Bytes of the three operands and the gradient."""
        return 4 * self.elements * self.dtype.itemsize_bytes
