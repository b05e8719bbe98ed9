"""Metrics on their way from a worker to the supervisor: families of samples, as JSON.

prometheus_client's own way for several processes, files that all map, loses Info, Enum and callbacks, and keeps what
dead processes left; here a registry stays what it is, and a worker that ended has no metrics.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.samples import Sample

__all__ = ["as_json", "merged"]


def as_json(registry: CollectorRegistry) -> list[Any]:
    """Returns every sample of `registry`, for `merged`."""
    return [
        [family.name, family.documentation, family.type, [[at.name, at.labels, at.value] for at in family.samples]]
        for family in registry.collect()
    ]


def merged(families_of: Mapping[str, list[Any]]) -> Iterable[Metric]:
    """Returns the metrics of all workers, family by family, each sample with the label `worker`.

    Args:
        families_of: Worker -> what `as_json` returned there.
    """
    metrics: dict[str, Metric] = {}
    for worker, families in families_of.items():
        for name, text, kind, samples in families:
            metric = metrics.setdefault(name, Metric(name, text, kind))
            metric.samples.extend(Sample(at, {"worker": worker, **labels}, value) for at, labels, value in samples)
    return metrics.values()
