"""Collector of requests, ended and under way, by the name of their caller's token."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector
from typing_extensions import override

__all__ = ["CallerTotals", "Callers"]

# Most names with series of their own; requests of further ones count as "other". The operator chooses the names.
_MOST_NAMES = 32
_OTHER = "other"


class CallerTotals:
    """Requests of one caller that ended.

    Attributes:
        answered: Number of those that were answered.
        failed: Number of those that failed.
    """

    __slots__ = ("answered", "failed")

    def __init__(self) -> None:
        self.answered = 0
        self.failed = 0


class Callers(Collector):
    """Requests by caller. Belongs to the event loop; any thread may read it.

    Attributes:
        in_flight: Returns name, requests and operand bytes of each caller with a name; any thread may call it.
    """

    def __init__(self) -> None:
        self._totals: dict[str, CallerTotals] = {}
        self.in_flight: Callable[[], Sequence[tuple[str, int, int]]] = lambda: ()

    def of(self, name: str) -> CallerTotals:
        """Returns the totals of a name, to be counted by the caller of this method."""
        known = name if name in self._totals or len(self._totals) < _MOST_NAMES else _OTHER
        return self._totals.setdefault(known, CallerTotals())

    @override
    def collect(self) -> Iterable[Metric]:
        counter = CounterMetricFamily(
            "mse_grad_caller_requests",
            "Requests for a gradient that ended, by the name of the caller's token.",
            labels=["caller", "outcome"],
        )
        for name, totals in self._totals.copy().items():
            counter.add_metric([name, "answered"], totals.answered)
            counter.add_metric([name, "failed"], totals.failed)
        requests = GaugeMetricFamily(
            "mse_grad_caller_in_flight_requests",
            "Requests admitted and not ended, by the name of the caller's token.",
            labels=["caller"],
        )
        in_flight_bytes = GaugeMetricFamily(
            "mse_grad_caller_in_flight_bytes",
            "Operand bytes of admitted requests, by the name of the caller's token.",
            labels=["caller"],
        )
        held = dict.fromkeys(self._totals, (0, 0))
        for name, caller_requests, caller_bytes in self.in_flight():
            known = name if name in held else _OTHER
            before = held.get(known, (0, 0))
            held[known] = (before[0] + caller_requests, before[1] + caller_bytes)
        for name, (caller_requests, caller_bytes) in held.items():
            requests.add_metric([name], caller_requests)
            in_flight_bytes.add_metric([name], caller_bytes)
        return [counter, requests, in_flight_bytes]
