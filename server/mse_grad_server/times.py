"""Durations in the buckets of a histogram.

Our own, for an observation by prometheus_client takes 0.7 us for what takes 0.2 here, and every message of 50 us has
four.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate
from threading import Lock

__all__ = ["COARSE_BUCKETS_S", "Times"]

COARSE_BUCKETS_S = (0.00005, 0.0002, 0.001, 0.005, 0.02, 0.1, 0.5, 2.0, 10.0, 60.0)
"""Bounds of the histograms that have many children: half as many as a request has."""


class Times:
    """The durations of one thing."""

    __slots__ = ("_bounds_s", "_counts", "_lock", "_sum_s")

    def __init__(self, bounds_s: Sequence[float] = COARSE_BUCKETS_S) -> None:
        self._bounds_s = bounds_s
        self._lock = Lock()
        self._counts = [0] * (len(bounds_s) + 1)
        self._sum_s = 0.0

    def count(self, seconds: float) -> None:
        """Counts one more; where no other thread counts at the same time."""
        self._counts[bisect_left(self._bounds_s, seconds)] += 1
        self._sum_s += seconds

    def observe(self, seconds: float) -> None:
        """Counts one more; from any thread."""
        with self._lock:
            self.count(seconds)

    def snapshot(self) -> tuple[list[tuple[str, float]], float]:
        """Returns how many there were up to each bound, as text, then all; and their sum. From any thread."""
        with self._lock:
            counts, sum_s = list(accumulate(self._counts)), self._sum_s
        bounds = [*(str(float(bound_s)) for bound_s in self._bounds_s), "+Inf"]
        return list(zip(bounds, counts, strict=True)), sum_s
