from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import pytest
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Enum,
    Gauge,
    Histogram,
    Info,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.registry import Collector

from mse_grad_server.process.state import State
from mse_grad_server.workers.metrics_page import HostMetrics, as_json, merged
from mse_grad_server.workers.protocol import Endpoint


@dataclass
class Worker:
    """The attributes of a managed worker that the metrics page reads."""

    name: str
    state: State = State.READY
    is_running: bool = True
    restarts: dict[str, int] = field(default_factory=dict)

    @property
    def endpoint(self) -> Endpoint:
        return Endpoint("127.0.0.1:1", self.name, self.state)


def page(*workers: Any, answers: dict[str, list[Any]] | None = None, is_ready: bool = True) -> CollectorRegistry:
    return HostMetrics(workers, ask=lambda: answers or {}, is_ready=lambda: is_ready).registry


def test_each_worker_has_its_state_and_whether_it_runs() -> None:
    found = page(Worker("npu:0"), Worker("npu:1", State.STARTING, is_running=False))
    for worker, up, state in (("npu:0", 1, "ready"), ("npu:1", 0, "starting")):
        assert found.get_sample_value("mse_grad_worker_up", {"worker": worker}) == up
        states = {
            one.value: found.get_sample_value("mse_grad_worker_state", {"worker": worker, "state": one.value})
            for one in State
        }
        assert states == {one.value: float(one.value == state) for one in State}


def test_replaced_processes_are_counted_by_the_reason_of_their_end() -> None:
    found = page(Worker("npu:0", restarts={"signal": 2, "device_lost": 1}))
    for reason, count in (("signal", 2), ("device_lost", 1)):
        labels = {"worker": "npu:0", "reason": reason}
        assert found.get_sample_value("mse_grad_worker_restarts_total", labels) == count


def test_the_host_says_whether_it_is_ready() -> None:
    for is_ready in (True, False):
        assert page(is_ready=is_ready).get_sample_value("mse_grad_host_ready") == is_ready


def test_a_worker_that_does_not_answer_is_missing_and_the_others_are_there() -> None:
    theirs = CollectorRegistry()
    Counter("mse_grad_elements_total", "Elements.", registry=theirs).inc(3)
    found = page(Worker("npu:0"), Worker("npu:1"), answers={"npu:1": as_json(theirs)})
    assert found.get_sample_value("mse_grad_elements_total", {"worker": "npu:1"}) == 3
    assert found.get_sample_value("mse_grad_elements_total", {"worker": "npu:0"}) is None
    assert found.get_sample_value("mse_grad_worker_up", {"worker": "npu:0"}) == 1


def test_no_worker_is_asked_before_the_first_scrape() -> None:
    asked = 0

    def ask() -> dict[str, list[Any]]:
        nonlocal asked
        asked += 1
        return {}

    metrics = HostMetrics([], ask=ask, is_ready=lambda: True)
    assert asked == 0
    assert list(metrics.registry.collect())
    assert asked == 1


def test_process_metrics_cover_each_worker_and_the_supervisor() -> None:
    theirs = CollectorRegistry()
    ProcessCollector(registry=theirs)
    found = page(Worker("npu:0"), answers={"npu:0": as_json(theirs)})
    for worker in ("npu:0", "supervisor"):
        resident_bytes = found.get_sample_value("process_resident_memory_bytes", {"worker": worker})
        assert resident_bytes is not None
        assert resident_bytes > 2**20


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
    """Returns the page of workers with these registries, after their conversion to JSON and back."""
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


def test_no_worker_speaks_for_another_or_for_the_supervisor() -> None:
    forged = [
        ["mse_grad_elements", "Elements.", "counter", [["mse_grad_elements_total", {"worker": "npu:1"}, 9]]],
        ["mse_grad_worker_up", "Up.", "gauge", [["mse_grad_worker_up", {"worker": "npu:1"}, 0]]],
    ]
    found = page(Worker("npu:0"), Worker("npu:1"), answers={"npu:0": forged})
    assert found.get_sample_value("mse_grad_elements_total", {"worker": "npu:0"}) == 9
    assert found.get_sample_value("mse_grad_elements_total", {"worker": "npu:1"}) is None
    assert generate_latest(found).decode().count("# TYPE mse_grad_worker_up ") == 1
    assert found.get_sample_value("mse_grad_worker_up", {"worker": "npu:1"}) == 1


@pytest.mark.parametrize(
    "families",
    [
        [7],
        [["a", "A."]],
        [["a", "A.", "gage", []]],
        [["a", None, "gauge", []]],
        [["a", "A.", "gauge", [["a", None, 1]]]],
        [["a", "A.", "gauge", [["a", {"b": 1}, 1]]]],
        [["a", "A.", "gauge", [["a", {"b": "\ud800"}, 1]]]],
        [["a", "A.", "gauge", [["a", {}, None]]]],
        [["a", "A.", "gauge", [["a", {}, 10**400]]]],
    ],
)
def test_metrics_that_no_page_can_hold_cost_no_other_worker(families: list[Any]) -> None:
    theirs = CollectorRegistry()
    Counter("mse_grad_elements_total", "Elements.", registry=theirs).inc(3)
    found = page(Worker("npu:0"), Worker("npu:1"), answers={"npu:0": families, "npu:1": as_json(theirs)})
    assert 'mse_grad_elements_total{worker="npu:1"} 3.0' in generate_latest(found).decode()
