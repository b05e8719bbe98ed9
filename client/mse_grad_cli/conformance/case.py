"""Cases of the conformance checks: shapes, kinds of data, forms of dout and layouts; one seed gives the same cases."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import cycle
from math import prod
from typing import TypeAlias

import numpy as np

from mse_grad.tensor import Array, DType, Reduction
from mse_grad_cli.conformance.expected import Reference, golden, reference
from mse_grad_cli.conformance.operands import KINDS, LAYOUTS, lay_out

__all__ = ["Case", "Compute", "Dout", "PartCompute", "cases", "make_case", "part_of"]

Dout: TypeAlias = "Array | float"

Compute: TypeAlias = Callable[[Array, Array, Dout, str], Array]
"""Implementation under test: predict, label, dout (an array or a number) and the reduction's name to the gradient."""

PartCompute: TypeAlias = Callable[[Array, Array, Dout, str, int], Array]
"""The same for a part of a larger tensor, whose element count is the fifth argument; 0 for the whole tensor."""

# Vector widths of 8 to 64 elements and the kernels' blocks of 512 and 4096 elements, each with its neighbours.
RANK_8 = (2, 1, 3, 2, 1, 2, 2, 3)
SMALL_SHAPES: tuple[tuple[int, ...], ...] = (
    *((), (0,), (2, 0), (1,), (7,), (31,), (32,), (33,), (511,), (512,), (513,)),
    RANK_8,
)
LAYOUT_SHAPES: tuple[tuple[int, ...], ...] = ((33, 17), (3, 5, 7, 11), RANK_8)
# Lengths around the largest float16, 65504, and 2^16. They expose an N that went through float16 or 16 bits.
HALF_LENGTHS = tuple(range(65503, 65538))
QUICK_LENGTHS = (4095, 4096, 4097, 65503, 65505, 65537)
BLOCK_LENGTHS = (4095, 4096, 4097, 131071, 131072, 131073, 2**20 - 1, 2**20, 2**20 + 1)
DOUTS = ("full", "rank 0", "rank 1", "number")


@dataclass(frozen=True, eq=False)
class Case:
    """One call of the implementation under test.

    Attributes:
        name: Description for people.
        dtype: Element type of the operands.
        predict: Any shape and layout.
        label: Shape of predict, any layout.
        dout: Shape of predict, one element of rank 0 or 1, or a number.
        reduction: Reduction of the loss.
    """

    name: str
    dtype: DType
    predict: Array
    label: Array
    dout: Dout
    reduction: Reduction

    def __str__(self) -> str:
        return f"{self.name}, shape {list(self.predict.shape)}, {self.reduction.text}"

    def run(self, compute: Compute) -> Array:
        """Returns a copy of the result of `compute`, so that an implementation that reuses memory is found.

        An exception of `compute` gets a note that names the case.
        """
        try:
            result: Array = compute(self.predict, self.label, self.dout, self.reduction.text).copy()
        except Exception as error:
            error.add_note(f"{self.dtype.name}, {self}")
            raise
        return result

    @cached_property
    def golden(self) -> Array:
        """The golden result, one-dimensional, in C order."""
        return golden(*self._flat, reduction=self.reduction, dtype=self.dtype)

    @cached_property
    def reference(self) -> Reference:
        """The reference result, one-dimensional, in C order."""
        return reference(*self._flat, reduction=self.reduction, dtype=self.dtype)

    @property
    def _flat(self) -> tuple[Array, Array, Array]:
        dout = np.asarray(self.dout, dtype=self.dtype.numpy)
        return self.predict.reshape(-1), self.label.reshape(-1), dout.reshape(-1)


def make_case(
    rng: np.random.Generator,
    dtype: DType,
    shape: Sequence[int],
    *,
    kind: str = "normal",
    reduction: Reduction = Reduction.MEAN,
    dout: str = "full",
    layout: str = "C",
) -> Case:
    """Returns a case with new data.

    Args:
        rng: Generator of the data.
        dtype: Element type of the operands.
        shape: Shape of predict.
        kind: A key of `operands.KINDS`.
        reduction: Reduction of the loss.
        dout: "full", "rank 0", "rank 1" or "number".
        layout: A key of `operands.LAYOUTS`; for "C" any rank, for the others at least 1.
    """
    predict, label, full_dout = (
        lay_out(values.reshape(shape), layout) for values in KINDS[kind](rng, prod(shape), dtype)
    )
    forms: dict[str, Dout] = {
        "full": full_dout,
        "rank 0": np.asarray(0.3, dtype.numpy),
        "rank 1": np.asarray([-1.7], dtype.numpy),
        "number": 0.375,  # exact in every dtype, so that no conversion changes it
    }
    name = f"{kind} data, dout {dout}" + ("" if layout == "C" else f", {layout} layout")
    return Case(name, dtype, predict, label, forms[dout], reduction)


def part_of(part: PartCompute, numel: int) -> Compute:
    """Returns `part` for one element count of the larger tensor."""

    def compute(predict: Array, label: Array, dout: Dout, reduction: str) -> Array:
        return part(predict, label, dout, reduction, numel)

    return compute


def cases(dtype: DType, *, seed: int = 0, quick: bool = False, lengths: Sequence[int] = ()) -> Iterator[Case]:
    """Yields the cases for one dtype, small ones first; the same ones for the same arguments.

    Args:
        dtype: Element type of the operands.
        seed: Seed of all data.
        quick: Leave out most lengths above 513.
        lengths: Further element counts; each comes with its two neighbours.
    """
    rng = np.random.default_rng([seed, dtype.wire])
    dout = cycle(DOUTS)
    for shape in SMALL_SHAPES:
        for kind in KINDS:
            for reduction in Reduction:
                yield make_case(rng, dtype, shape, kind=kind, reduction=reduction, dout=next(dout))
    for shape in LAYOUT_SHAPES:
        for layout in LAYOUTS:
            for reduction in Reduction:
                yield make_case(rng, dtype, shape, reduction=reduction, dout="full", layout=layout)
    reductions = cycle((Reduction.MEAN, Reduction.MEAN, Reduction.SUM, Reduction.NONE, Reduction.MEAN))
    kinds = cycle(KINDS)
    wanted = QUICK_LENGTHS if quick else (*BLOCK_LENGTHS, *HALF_LENGTHS)
    near = (length + step for length in lengths for step in (-1, 0, 1) if length + step > 0)
    for length in sorted({*wanted, *near}):
        kind = next(kinds)
        yield make_case(rng, dtype, (length,), kind=kind, reduction=Reduction.MEAN, dout="full")
        yield make_case(rng, dtype, (length,), reduction=next(reductions), dout=next(dout))
