from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from prometheus_client import CollectorRegistry, Counter, ProcessCollector

from mse_grad_server.families import as_json
from mse_grad_server.host_metrics import HostMetrics
from mse_grad_server.roster import Endpoint
from mse_grad_server.state import State


@dataclass
class Member:
    """What the metrics look at of a member."""

    worker: str
    state: State = State.READY
    is_running: bool = True
    restarts: dict[str, int] = field(default_factory=dict)

    @property
    def endpoint(self) -> Endpoint:
        return Endpoint("127.0.0.1:1", self.worker, self.state)


def page(*members: Any, answers: dict[str, list[Any]] | None = None, is_ready: bool = True) -> CollectorRegistry:
    return HostMetrics(members, ask=lambda: answers or {}, is_ready=lambda: is_ready).registry


def test_each_worker_has_its_state_and_whether_it_runs() -> None:
    found = page(Member("npu:0"), Member("npu:1", State.STARTING, is_running=False))
    for worker, up, state in (("npu:0", 1, "ready"), ("npu:1", 0, "starting")):
        assert found.get_sample_value("mse_grad_worker_up", {"worker": worker}) == up
        states = {
            one.value: found.get_sample_value("mse_grad_worker_state", {"worker": worker, "state": one.value})
            for one in State
        }
        assert states == {one.value: float(one.value == state) for one in State}


def test_replaced_processes_are_counted_by_why_they_ended() -> None:
    found = page(Member("npu:0", restarts={"signal": 2, "device_lost": 1}))
    for reason, count in (("signal", 2), ("device_lost", 1)):
        labels = {"worker": "npu:0", "reason": reason}
        assert found.get_sample_value("mse_grad_worker_restarts_total", labels) == count


def test_the_host_says_whether_it_is_ready() -> None:
    for is_ready in (True, False):
        assert page(is_ready=is_ready).get_sample_value("mse_grad_host_ready") == is_ready


def test_who_does_not_answer_is_missing_and_the_others_are_there() -> None:
    theirs = CollectorRegistry()
    Counter("mse_grad_elements_total", "Elements.", registry=theirs).inc(3)
    found = page(Member("npu:0"), Member("npu:1"), answers={"npu:1": as_json(theirs)})
    assert found.get_sample_value("mse_grad_elements_total", {"worker": "npu:1"}) == 3
    assert found.get_sample_value("mse_grad_elements_total", {"worker": "npu:0"}) is None
    assert found.get_sample_value("mse_grad_worker_up", {"worker": "npu:0"}) == 1


def test_nobody_is_asked_before_somebody_looks() -> None:
    asked = 0

    def ask() -> dict[str, list[Any]]:
        nonlocal asked
        asked += 1
        return {}

    metrics = HostMetrics([], ask=ask, is_ready=lambda: True)
    assert asked == 0
    assert list(metrics.registry.collect())
    assert asked == 1


def test_what_the_processes_take_is_told_of_each_and_of_the_supervisor() -> None:
    theirs = CollectorRegistry()
    ProcessCollector(registry=theirs)
    found = page(Member("npu:0"), answers={"npu:0": as_json(theirs)})
    for worker in ("npu:0", "supervisor"):
        resident_bytes = found.get_sample_value("process_resident_memory_bytes", {"worker": worker})
        assert resident_bytes is not None
        assert resident_bytes > 2**20
