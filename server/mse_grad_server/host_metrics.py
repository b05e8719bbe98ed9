"""The metrics of all workers, and those about them, as one page."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from prometheus_client import CollectorRegistry, Metric, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from mse_grad_server.families import as_json, merged
from mse_grad_server.member import Member
from mse_grad_server.state import State

__all__ = ["HostMetrics"]


_SUPERVISOR = "supervisor"


class HostMetrics(Collector):
    """Asks the workers whenever it is asked itself; from any thread but that of the event loop.

    Attributes:
        registry: What an endpoint serves.
    """

    def __init__(
        self,
        members: Sequence[Member],
        *,
        ask: Callable[[], Mapping[str, list[Any]]],
        is_ready: Callable[[], bool],
    ) -> None:
        """Takes whom to ask.

        Args:
            members: The workers.
            ask: Returns what each worker that answers says, by worker; blocks.
            is_ready: Whether the host is.
        """
        self.registry = CollectorRegistry()
        self._own = CollectorRegistry()
        ProcessCollector(registry=self._own)
        self._members = members
        self._ask = ask
        self._is_ready = is_ready
        self.registry.register(self)

    def collect(self) -> Iterable[Metric]:
        """See Collector."""
        yield from merged({**self._ask(), _SUPERVISOR: as_json(self._own)})
        yield from self._about_workers()

    def describe(self) -> Iterable[Metric]:
        """See Collector; nobody is asked before anybody serves."""
        return self._about_workers()

    def _about_workers(self) -> Iterable[Metric]:
        ready = GaugeMetricFamily("mse_grad_host_ready", "1 while as many workers are ready as --ready-when says.")
        ready.add_metric([], self._is_ready())
        up = GaugeMetricFamily("mse_grad_worker_up", "1 while the worker has a process, else 0.", labels=["worker"])
        state = GaugeMetricFamily(
            "mse_grad_worker_state", "1 for the state that the worker is in, else 0.", labels=["worker", "state"]
        )
        restarts = CounterMetricFamily(
            "mse_grad_worker_restarts", "Processes that were replaced, by why they ended.", labels=["worker", "reason"]
        )
        for member in self._members:
            up.add_metric([member.worker], member.is_running)
            for one in State:
                state.add_metric([member.worker, one.value], member.endpoint.state is one)
            for reason, count in sorted(member.restarts.items()):
                restarts.add_metric([member.worker, reason], count)
        return [ready, up, state, restarts]
