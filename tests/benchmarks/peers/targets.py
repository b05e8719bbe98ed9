"""Targets of the benchmark: bounds on ratios of medians of one run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.peers.figures import Figure
from benchmarks.peers.rows import Key

__all__ = ["TARGETS", "Target"]

_EMPTY = ("compute", "same host, client.empty")
_SAME_HOST = ("compute", "same host")
_TCP = ("compute", "tcp")
_TCP_TUNED = ("compute", "tcp, tuned")
_TCP_GRPC = ("compute", "tcp, gRPC's stream")
_TCP_TLS = ("compute", "tcp, TLS")
_MANY = ("compute_many", "same host, 64 a call")
_MANY_TCP = ("compute_many", "tcp, 64 a call")
_FLIGHT = ("Arrow Flight", "stream")
_FLIGHT_TUNED = ("Arrow Flight", "stream of 128K, tuned")
_FLIGHT_TLS = ("Arrow Flight", "stream of 128K, tuned, TLS")
_MOSEC = ("mosec", "http")
_PLAIN = ("plain grpcio", "unary")
_RAW_UNIX = ("raw socket", "unix")
_KERNEL = ("native kernel", "in-process")
_KERNEL_NEW = ("native kernel", "in-process, new array")
_TORCH_NEW = ("PyTorch", "in-process, new array")

_1K, _64K, _1M, _16M = 2**10, 2**16, 2**20, 2**24


@dataclass(frozen=True)
class Target:
    """A bound on the ratio between a row of ours and another row.

    Attributes:
        ours: The row that is judged.
        theirs: The row that it is compared with; None compares its 99th percentile with its own median.
        elements: Elements of each tensor of a gradient.
        at_least: How many times as fast ours must be; or None.
        at_most: How many times as long ours may take; or None.
        clients: Client processes at a time.
        dtype: Name of the tensors' dtype.
    """

    ours: Key
    theirs: Key | None
    elements: int
    at_least: float | None = None
    at_most: float | None = None
    clients: int = 1
    dtype: str = "float32"

    @property
    def bound(self) -> str:
        """The bound, for people."""
        return f">= {self.at_least}" if self.at_least is not None else f"<= {self.at_most}"

    def ratio(self, figures: Sequence[Figure]) -> float | None:
        """Returns the ratio, or None if one of the two rows was not measured."""
        measured = {
            figure.key: figure
            for figure in figures
            if (figure.elements, figure.dtype, figure.clients) == (self.elements, self.dtype, self.clients)
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
        """Whether the ratio meets the bound."""
        if self.at_least is not None:
            return ratio >= self.at_least
        return self.at_most is not None and ratio <= self.at_most


TARGETS = (
    Target(_EMPTY, _KERNEL, _16M, at_most=1.05),
    Target(_EMPTY, _KERNEL, _1M, at_most=2.2),
    Target(_EMPTY, _RAW_UNIX, _1K, at_most=5.0),
    Target(_EMPTY, _FLIGHT, _1K, at_least=1.8),
    *(
        Target(_SAME_HOST, theirs, elements, at_least=factor)
        for elements in (_1M, _16M)
        for theirs, factor in ((_FLIGHT, 2.5), (_FLIGHT_TUNED, 1.3), (_PLAIN, 8.0))
    ),
    *(
        Target(_TCP_TUNED, theirs, elements, at_least=factor)
        for elements, tuned, as_shipped in ((_1K, 1.8, 1.8), (_64K, 1.6, 2.0), (_1M, 1.4, 2.2), (_16M, 1.2, 2.2))
        for theirs, factor in ((_FLIGHT, as_shipped), (_FLIGHT_TUNED, tuned))
    ),
    *(Target(_TCP_TLS, _FLIGHT_TLS, elements, at_least=1.3) for elements in (_1K, _64K, _1M, _16M)),
    *(Target(_TCP, _TCP_GRPC, elements, at_least=1.0) for elements in (_1K, _64K, _1M, _16M)),
    *(Target(_TCP, _FLIGHT, elements, at_least=1.0) for elements in (_1K, _64K, _1M, _16M)),
    Target(_TCP, None, _64K, at_most=3.0),
    *(
        Target(ours, theirs, _1K, at_least=factor, clients=4)
        for ours, to_flight, to_mosec in ((_SAME_HOST, 1.6, 1.2), (_TCP_TUNED, 1.8, 1.8))
        for theirs, factor in ((_FLIGHT, to_flight), (_MOSEC, to_mosec))
    ),
    Target(_MANY, _SAME_HOST, _1K, at_least=12.0),
    Target(_MANY, _FLIGHT, _1K, at_least=20.0),
    Target(_MANY_TCP, _TCP, _1K, at_least=12.0),
    Target(_MANY_TCP, _FLIGHT, _1K, at_least=25.0),
    Target(_KERNEL_NEW, _TORCH_NEW, _1M, at_least=1.2),
    Target(_KERNEL_NEW, _TORCH_NEW, _1M, at_least=2.5, dtype="float16"),
    Target(_KERNEL_NEW, _TORCH_NEW, _1M, at_least=2.5, dtype="bfloat16"),
    Target(_TCP, _PLAIN, _1K, at_least=1.4),
    Target(_TCP, _PLAIN, _1M, at_least=4.0),
    Target(_TCP, _PLAIN, _16M, at_least=4.0),
)
