"""What the figures are judged by: ratios of medians of one run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.peers.figures import Figure
from benchmarks.peers.roster import Key

__all__ = ["GOALS", "Goal"]

_EMPTY = ("compute", "same host, client.empty")
_SAME_HOST = ("compute", "same host")
_TCP = ("compute", "tcp")
_TCP_TUNED = ("compute", "tcp, tuned")
_MANY = ("compute_many", "same host, 64 a call")
_MANY_TCP = ("compute_many", "tcp, 64 a call")
_FLIGHT = ("Arrow Flight", "stream")
_FLIGHT_TUNED = ("Arrow Flight", "stream of 128K, tuned")
_MOSEC = ("mosec", "http")
_PLAIN = ("plain grpcio", "unary")
_RAW_UNIX = ("raw socket", "unix")
_KERNEL = ("native kernel", "in-process")

_1K, _64K, _1M, _16M = 2**10, 2**16, 2**20, 2**24


@dataclass(frozen=True)
class Goal:
    """A bound on how ours compares with theirs, in float32.

    Attributes:
        ours: What is judged.
        theirs: What it is compared with; None compares its 99th percentile with its own median.
        elements: Of each tensor of a gradient.
        at_least: How many times as fast ours must be; or None.
        at_most: How many times theirs ours may take; or None.
        clients: At a time.
    """

    ours: Key
    theirs: Key | None
    elements: int
    at_least: float | None = None
    at_most: float | None = None
    clients: int = 1

    @property
    def bound(self) -> str:
        """The bound for people."""
        return f">= {self.at_least}" if self.at_least is not None else f"<= {self.at_most}"

    def ratio(self, figures: Sequence[Figure]) -> float | None:
        """Returns what the bound is for, or None where one of the two was not measured."""
        measured = {
            figure.key: figure
            for figure in figures
            if (figure.elements, figure.dtype, figure.clients) == (self.elements, "float32", self.clients)
        }
        ours = measured.get(self.ours)
        if ours is None:
            return None
        if self.theirs is None:
            return ours.p99_us / ours.p50_us if ours.p99_us is not None and ours.p50_us is not None else None
        theirs = measured.get(self.theirs)
        if theirs is None:
            return None
        as_fast = ours.gradients_per_s / theirs.gradients_per_s
        return as_fast if self.at_least is not None else 1 / as_fast

    def met(self, ratio: float) -> bool:
        """Whether the ratio keeps the bound."""
        if self.at_least is not None:
            return ratio >= self.at_least
        return self.at_most is not None and ratio <= self.at_most


GOALS = (
    Goal(_EMPTY, _KERNEL, _16M, at_most=1.05),
    Goal(_EMPTY, _KERNEL, _1M, at_most=2.2),
    Goal(_EMPTY, _RAW_UNIX, _1K, at_most=5.0),
    Goal(_EMPTY, _FLIGHT, _1K, at_least=1.8),
    *(
        Goal(_SAME_HOST, theirs, elements, at_least=factor)
        for elements in (_1M, _16M)
        for theirs, factor in ((_FLIGHT, 2.5), (_FLIGHT_TUNED, 1.3), (_PLAIN, 8.0))
    ),
    Goal(_TCP_TUNED, _FLIGHT_TUNED, _1K, at_least=1.3),
    *(
        Goal(_TCP_TUNED, theirs, elements, at_least=factor)
        for elements, as_shipped in ((_64K, 1.2), (_1M, 1.8), (_16M, 1.9))
        for theirs, factor in ((_FLIGHT, as_shipped), (_FLIGHT_TUNED, 1.0))
    ),
    *(Goal(_TCP, _FLIGHT, elements, at_least=1.0) for elements in (_1K, _64K, _1M, _16M)),
    Goal(_TCP, None, _64K, at_most=3.0),
    *(
        Goal(ours, theirs, _1K, at_least=factor, clients=4)
        for ours in (_SAME_HOST, _TCP_TUNED)
        for theirs, factor in ((_FLIGHT, 1.6), (_MOSEC, 1.2))
    ),
    Goal(_MANY, _SAME_HOST, _1K, at_least=12.0),
    Goal(_MANY, _FLIGHT, _1K, at_least=20.0),
    Goal(_MANY_TCP, _TCP, _1K, at_least=12.0),
    Goal(_MANY_TCP, _FLIGHT, _1K, at_least=20.0),
)
