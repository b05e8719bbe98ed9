"""Figures of two implementations next to each other; a comparison judges nobody, the bar does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mse_grad.tensor import Array, DType
from mse_grad_client.bar.case import Compute, cases
from mse_grad_client.bar.expected import same_bits, ulp_distance

__all__ = ["Comparison", "compare"]


@dataclass(frozen=True)
class Comparison:
    """Two implementations on the cases of one dtype, but for the empty ones.

    Distances are in ULP and count where every intermediate is exactly zero or normal and finite.

    Attributes:
        dtype: Name of the element type.
        cases: Calls of each.
        elements: Elements of each.
        equal_percent: Share of elements with equal bits, in every domain.
        distance_ulp: Largest distance of one from the other.
        own_ulp: Largest distance of the first from the golden.
        peer_ulp: Largest distance of the second from the golden.
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
    """Returns a comparison for each dtype; what either raises ends it.

    Args:
        compute: The first.
        peer: The second.
        dtypes: Element types that both take.
        seed: Seed of all data.
        quick: Fewer large shapes.
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
