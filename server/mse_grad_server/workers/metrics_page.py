"""Metrics page of a host: the metrics of all workers, and those of the supervisor about them.

Workers send their metrics to the supervisor as JSON. prometheus_client's own way for several processes, files that all
of them map, loses Info, Enum and callbacks, and keeps the metrics of dead processes. Here a registry stays as it is,
and a worker that ended has no metrics.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Metric, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample
from typing_extensions import override

from mse_grad_server.process.state import State
from mse_grad_server.workers.managed_worker import ManagedWorker

__all__ = ["HostMetrics", "as_json", "merged"]

# Value of the label `worker` for the supervisor's own process.
_SUPERVISOR = "supervisor"


class HostMetrics(Collector):
    """Collector that asks every worker at each scrape; call it from any thread but that of the event loop.

    Args:
        workers: Workers of the host.
        ask: Returns the metrics of each worker that answers, by worker. The call blocks.
        is_ready: Returns whether the host is ready.
        lost_lines: Counter of lines that the supervisor's own log lost.

    Attributes:
        registry: Registry that the endpoint serves.
    """

    def __init__(
        self,
        workers: Sequence[ManagedWorker],
        *,
        ask: Callable[[], Mapping[str, list[Any]]],
        is_ready: Callable[[], bool],
        lost_lines: Counter | None = None,
    ) -> None:
        self.registry = CollectorRegistry()
        self._own = CollectorRegistry()
        ProcessCollector(registry=self._own)
        if lost_lines is not None:
            self._own.register(lost_lines)
        self._workers = workers
        self._ask = ask
        self._is_ready = is_ready
        self.registry.register(self)

    @override
    def collect(self) -> Iterable[Metric]:
        about = self._about_workers()
        yield from merged({_SUPERVISOR: as_json(self._own), **self._ask()}, besides={family.name for family in about})
        yield from about

    def describe(self) -> Iterable[Metric]:
        """Returns the metrics of the supervisor only: the registry calls this before any worker can answer."""
        return self._about_workers()

    def _about_workers(self) -> Sequence[Metric]:
        ready = GaugeMetricFamily("mse_grad_host_ready", "1 while the host is ready by --ready-when, else 0.")
        ready.add_metric([], self._is_ready())
        up = GaugeMetricFamily("mse_grad_worker_up", "1 while the worker has a process, else 0.", labels=["worker"])
        state = GaugeMetricFamily(
            "mse_grad_worker_state", "1 for the state that the worker is in, else 0.", labels=["worker", "state"]
        )
        restarts = CounterMetricFamily(
            "mse_grad_worker_restarts",
            "Processes that were replaced, by the reason of their end.",
            labels=["worker", "reason"],
        )
        for worker in self._workers:
            up.add_metric([worker.name], worker.is_running)
            for one in State:
                state.add_metric([worker.name, one.value], worker.endpoint.state is one)
            for reason, count in sorted(worker.restarts.items()):
                restarts.add_metric([worker.name, reason], count)
        return [ready, up, state, restarts]


def as_json(registry: CollectorRegistry) -> list[Any]:
    """Returns every sample of `registry`, for `merged`."""
    return [
        [family.name, family.documentation, family.type, [[at.name, at.labels, at.value] for at in family.samples]]
        for family in registry.collect()
    ]


def merged(families_of: Mapping[str, list[Any]], *, besides: Container[str] = ()) -> Iterable[Metric]:
    """Returns the metrics of all workers, family by family, each sample with the label `worker`.

    A worker speaks for itself alone. One whose memory is damaged costs the page no other worker: its metrics are left
    out if a page cannot hold them.

    Args:
        families_of: Worker -> the value that `as_json` returned there.
        besides: Names of families that no worker has.
    """
    metrics: dict[str, Metric] = {}
    for worker, written in families_of.items():
        try:
            families = [_family(worker, family) for family in written]
        except (TypeError, ValueError, OverflowError):
            continue
        for family in families:
            if family.name not in besides:
                metrics.setdefault(family.name, Metric(family.name, family.documentation, family.type)).samples.extend(
                    family.samples
                )
    return metrics.values()


def _family(worker: str, written: Any) -> Metric:
    """Returns one family that `as_json` wrote; raises TypeError, ValueError or OverflowError for anything else."""
    name, text, kind, samples = written
    family = Metric(_text(name), _text(text), _text(kind))
    for at, labels, value in samples:
        theirs = {_text(label): _text(word) for label, word in dict(labels).items()}
        family.samples.append(Sample(_text(at), {**theirs, "worker": worker}, float(value)))
    return family


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    value.encode()  # the page is UTF-8, which has no half of a surrogate pair
    return value
