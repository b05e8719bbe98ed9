"""Comparison of two implementations, without a verdict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mse_grad.tensor import Array, DType
from mse_grad_cli.conformance.case import Compute, cases
from mse_grad_cli.conformance.expected import same_bits, ulp_distance

__all__ = ["Comparison", "compare"]


@dataclass(frozen=True)
class Comparison:
    """Figures of two implementations on the non-empty cases of one dtype.

    Distances are in ULP, over the elements whose intermediates are all normal and finite, or exact zeros.

    Attributes:
        dtype: Name of the element type.
        cases: Calls of each implementation.
        elements: Elements of each implementation.
        equal_percent: Share of all elements with equal bits.
        distance_ulp: Largest distance between the two.
        own_ulp: Largest distance of the first from the golden result.
        peer_ulp: Largest distance of the second from the golden result.
    """

    dtype: str
    cases: int
    elements: int
    equal_percent: float
    distance_ulp: int
    own_ulp: int
    peer_ulp: int


def compare(
    compute: Compute,
    peer: Compute,
    *,
    dtypes: Sequence[DType],
    seed: int = 0,
    quick: bool = False,
) -> list[Comparison]:
    """Returns a comparison for each dtype; an exception of either implementation ends it.

    Args:
        compute: First implementation.
        peer: Second implementation.
        dtypes: Element types that both accept.
        seed: Seed of all data.
        quick: Run fewer large shapes.
    """
    return [_compare(compute, peer, dtype, seed=seed, quick=quick) for dtype in dtypes]


def _compare(compute: Compute, peer: Compute, dtype: DType, *, seed: int, quick: bool) -> Comparison:
    count = elements = equal = 0
    distance_ulp = own_ulp = peer_ulp = 0
    for case in cases(dtype, seed=seed, quick=quick):
        if not case.predict.size:
            continue
        own, other = case.run(compute).reshape(-1), case.run(peer).reshape(-1)
        count += 1
        elements += own.size
        equal += int(np.count_nonzero(same_bits(own, other)))
        plain = case.reference.plain
        distance_ulp = max(distance_ulp, _largest(own[plain], other[plain]))
        own_ulp = max(own_ulp, _largest(own[plain], case.golden[plain]))
        peer_ulp = max(peer_ulp, _largest(other[plain], case.golden[plain]))
    return Comparison(dtype.name, count, elements, 100 * equal / max(elements, 1), distance_ulp, own_ulp, peer_ulp)


def _largest(one: Array, other: Array) -> int:
    return int(np.max(ulp_distance(one, other), initial=0))
