from __future__ import annotations

import json

from prometheus_client import CollectorRegistry, Counter, Enum, Gauge, Histogram, Info, generate_latest
from prometheus_client.registry import Collector

from mse_grad_server.families import as_json, merged


class Page(Collector):
    def __init__(self, **families: object) -> None:
        self._families = families

    def collect(self):  # type: ignore[no-untyped-def]
        return merged(self._families)  # type: ignore[arg-type]


def registry(count: int) -> CollectorRegistry:
    """Returns one of each kind of metric."""
    registry = CollectorRegistry()
    Counter("a_total", "A counter.", ["code"], registry=registry).labels("OK").inc(count)
    Histogram("b_seconds", "A histogram.", buckets=(1, 2), registry=registry).observe(count)
    Info("c", "An info.", registry=registry).info({"version": str(count)})
    Enum("d", "An enum.", states=["up", "down"], registry=registry).state("down")
    Gauge("e", "A callback.", registry=registry).set_function(lambda: count)
    return registry


def page_of(**registries: CollectorRegistry) -> str:
    """Returns the page of workers with these registries, after their way through JSON."""
    page = CollectorRegistry()
    page.register(Page(**{name: json.loads(json.dumps(as_json(one))) for name, one in registries.items()}))
    return generate_latest(page).decode()


def test_every_kind_of_metric_arrives_with_its_worker() -> None:
    page = page_of(one=registry(1), two=registry(2))
    for line in (
        'a_total{code="OK",worker="one"} 1.0',
        'a_total{code="OK",worker="two"} 2.0',
        'b_seconds_bucket{le="1.0",worker="one"} 1.0',
        'b_seconds_bucket{le="1.0",worker="two"} 0.0',
        'b_seconds_sum{worker="two"} 2.0',
        'c_info{version="2",worker="two"} 1.0',
        'd{d="down",worker="one"} 1.0',
        'e{worker="two"} 2.0',
    ):
        assert line in page.splitlines()


def test_each_family_is_described_once() -> None:
    described = [line for line in page_of(one=registry(1), two=registry(2)).splitlines() if line.startswith("# TYPE")]
    assert len(described) == len(set(described))
    assert "# TYPE a_total counter" in described
    assert "# TYPE b_seconds histogram" in described


def test_a_page_of_one_worker_is_its_own_page_with_a_label() -> None:
    alone = registry(1)
    theirs = page_of(one=alone).replace(',worker="one"', "").replace('{worker="one"}', "")
    assert sorted(theirs.splitlines()) == sorted(generate_latest(alone).decode().splitlines())
