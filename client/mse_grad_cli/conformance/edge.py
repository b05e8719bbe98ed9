"""Edge cases: operands with the exact gradient that the contract demands.

Source: the table in docs/numerics.md, which also shows the differences to PyTorch. Every result was computed by hand.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from mse_grad.tensor import BFLOAT16, FLOAT16, FLOAT32, FLOAT64, Array, DType, Reduction
from mse_grad_cli.conformance.case import Case

__all__ = ["Edge", "edges", "large_edges", "part_edges"]

NAN, INF = np.nan, np.inf
NONE, MEAN, SUM = Reduction.NONE, Reduction.MEAN, Reduction.SUM
Values = float | Sequence[float]


@dataclass(frozen=True, eq=False)
class Edge:
    """A case and its exact gradient.

    Attributes:
        case: The operands.
        expected: The gradient; shape and dtype of predict.
        numel: Element count of the larger tensor that the operands are a part of; 0 if they are the whole tensor.
    """

    case: Case
    expected: Array
    numel: int = 0


def edges(dtype: DType) -> Iterator[Edge]:
    """Yields the edge cases of `dtype`."""
    yield from _edges_of_every_dtype(dtype)
    yield from _subnormal_edges(dtype)
    if dtype is FLOAT16:
        yield from _half_edges()
    else:
        largest = {FLOAT32: 3e38, BFLOAT16: 3e38, FLOAT64: 1.7e308}[dtype]
        yield _edge("the difference overflows first", dtype, [largest] * 4, [-largest] * 4, 1.0, MEAN, [INF] * 4)


def large_edges(dtype: DType) -> Iterator[Edge]:
    """Yields the edge cases that need hundreds of MiB."""
    if dtype is FLOAT16:
        count = 2**26
        one = np.ones(count, np.float16)
        case = Case("2 / N is not a float16", dtype, one, np.zeros_like(one), 1024.0, MEAN)
        yield Edge(case, np.full(count, 2.0**-15, np.float16))


def part_edges(dtype: DType) -> Iterator[Edge]:
    """Yields the edge cases of element counts that no test can allocate, each as a part of four elements."""
    ones, zeros = [1.0] * 4, [0.0] * 4
    scale = 2.0**10
    yield _edge("N = 2^26", dtype, ones, zeros, scale, MEAN, [2.0**-15] * 4, numel=2**26)
    large = [scale] * 4
    for exponent in (31, 32, 33):
        name, exact = f"N = 2^{exponent}", 2.0 ** (21 - exponent)
        yield _edge(name, dtype, large, zeros, scale, MEAN, [exact] * 4, numel=2**exponent)
    third = float(dtype.compute.type(1 / 3))
    yield _edge("N = 3 * 2^31", dtype, [2.0**15] * 4, zeros, 2.0**15, MEAN, [third] * 4, numel=3 * 2**31)


def _edges_of_every_dtype(dtype: DType) -> Iterator[Edge]:
    for reduction in Reduction:
        yield _edge("rank 0", dtype, 3.0, 1.0, 0.5, reduction, 2.0)
        yield _edge("no elements", dtype, [], [], 1.0, reduction, [])
    nan_second = [1.0, NAN, 3.0, 5.0]
    yield _edge("NaN in predict", dtype, nan_second, [0.0] * 4, 1.0, MEAN, [0.5, NAN, 1.5, 2.5])
    yield _edge("NaN in label", dtype, [0.0] * 4, nan_second, 1.0, MEAN, [-0.5, NAN, -1.5, -2.5])
    yield _edge("NaN in dout", dtype, [1.0] * 4, [0.0] * 4, nan_second, MEAN, [0.5, NAN, 1.5, 2.5])
    yield _edge("NaN as scalar dout", dtype, [1.0, 0.0, INF], [0.0] * 3, NAN, SUM, [NAN] * 3)
    infinite = [INF, -INF, INF, -INF, 1.0, 1.0]
    finite_or_not = [INF, -INF, -INF, 1.0, INF, -INF]
    yield _edge("Inf - Inf", dtype, infinite, finite_or_not, 1.0, NONE, [NAN, NAN, INF, -INF, -INF, INF])
    yield _edge("Inf, dout -1", dtype, infinite, finite_or_not, -1.0, NONE, [NAN, NAN, -INF, INF, INF, -INF])
    yield _edge("0 * Inf", dtype, [1.0, 1.0, INF], [1.0, 0.0, 0.0], [INF, INF, 0.0], SUM, [NAN, INF, NAN])
    zeros, opposite = [0.0, 0.0, -0.0, -0.0], [0.0, -0.0, 0.0, -0.0]
    yield _edge("zeros keep their sign", dtype, zeros, opposite, 1.0, SUM, [0.0, 0.0, -0.0, 0.0])
    yield _edge("zeros, dout -1", dtype, zeros, opposite, -1.0, MEAN, [-0.0, -0.0, 0.0, -0.0])
    yield _edge("zeros, dout -0", dtype, [1.0, -1.0], [0.0, 0.0], -0.0, NONE, [-0.0, 0.0])


def _subnormal_edges(dtype: DType) -> Iterator[Edge]:
    least = {FLOAT32: 2.0**-149, FLOAT16: 2.0**-24, BFLOAT16: 2.0**-133, FLOAT64: 2.0**-1074}[dtype]
    few = [least, -3 * least, 0.0, 5 * least]
    yield _edge("subnormals", dtype, few, [0.0] * 4, 1.0, SUM, [2 * value for value in few])
    yield _edge("subnormals subtracted", dtype, few, [least] * 4, 0.5, NONE, [value - least for value in few])
    halves = [2 * least, -6 * least, 0.0, 10 * least]
    yield _edge("subnormals, mean", dtype, halves, [0.0] * 4, 1.0, MEAN, few)
    yield _edge("subnormal dout", dtype, [1.0, 0.0], [0.0, 1.0], least, MEAN, [least, -least])


def _half_edges() -> Iterator[Edge]:
    large = [60000.0] * 4
    small = [-60000.0] * 4
    yield _edge("120 000 between", FLOAT16, large, small, 1.0, MEAN, large)
    yield _edge("80 000 between", FLOAT16, [40000.0], [0.0], 1 / 128, SUM, [625.0])
    yield _edge("overflow of the result", FLOAT16, large, small, 1.0, SUM, [INF] * 4)
    yield _edge("65 519 rounds down, 65 520 up", FLOAT16, [65504.0] * 2, [-15.0, -16.0], 1.0, MEAN, [65504.0, INF])


def _edge(
    name: str,
    dtype: DType,
    predict: Values,
    label: Values,
    dout: Values,
    reduction: Reduction,
    expected: Values,
    *,
    numel: int = 0,
) -> Edge:
    operands = [np.asarray(values, dtype.numpy) for values in (predict, label, dout, expected)]
    return Edge(Case(name, dtype, operands[0], operands[1], operands[2], reduction), operands[3], numel)
