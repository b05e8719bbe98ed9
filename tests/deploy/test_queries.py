"""Queries of the dashboards and rules, run on a real Prometheus that scrapes real servers."""

from __future__ import annotations

import pytest

from support.deploy.dashboards import METRIC, dashboards, missing, panel_queries, recorded, rules, selectors
from support.deploy.prometheus import Prometheus, QueryError
from support.waiting import wait_until

from .conftest import CHIP_VALUES, Watched

pytestmark = pytest.mark.one_python

PANELS = dict(panel_queries())
RULES = dict(rules())


@pytest.fixture(scope="module")
def prometheus(watched: Watched) -> Prometheus:
    """A Prometheus that has series for every query; the load ran until then."""

    def unseen() -> list[str]:
        asked = [missing(watched.prometheus, query) for query in PANELS.values()]
        asked += [missing(watched.prometheus, query, is_condition=True) for query in RULES.values()]
        asked += [missing(watched.prometheus, name) for name in recorded()]
        return [part for parts in asked for part in parts]

    def is_complete() -> bool:
        watched.load()
        return not unseen()

    try:
        wait_until(is_complete, otherwise="queries without a series")
    except AssertionError as cause:
        raise AssertionError(f"no series for {unseen()}") from cause
    return watched.prometheus


@pytest.mark.parametrize("where", PANELS)
def test_every_query_of_a_panel_yields_series(prometheus: Prometheus, where: str) -> None:
    assert missing(prometheus, PANELS[where]) == []


@pytest.mark.parametrize("name", RULES)
def test_every_rule_finds_the_series_that_it_names(prometheus: Prometheus, name: str) -> None:
    assert missing(prometheus, RULES[name], is_condition=True) == []


@pytest.mark.parametrize("name", recorded())
def test_every_recording_rule_writes(prometheus: Prometheus, name: str) -> None:
    assert missing(prometheus, name) == []


def test_a_misspelt_metric_is_found_in_every_query(prometheus: Prometheus) -> None:
    asked = [query for query in (*PANELS.values(), *RULES.values()) if selectors(query)]
    misspelt = [METRIC.sub(lambda found: f"{found[0]}_misspelt", query, count=1) for query in asked]
    assert len(misspelt) > 70
    assert [query for query in misspelt if not missing(prometheus, query, is_condition=True)] == []


def test_an_invalid_query_is_found(prometheus: Prometheus) -> None:
    with pytest.raises(QueryError, match="parse error"):
        missing(prometheus, "sum by (code) (rate(mse_grad_requests_total[5m])")


def test_figures_are_those_of_the_load(prometheus: Prometheus) -> None:
    (workers,) = prometheus.query('sum(mse_grad_ready{instance="npu"})')
    assert workers["value"][1] == "1"
    (healthy,) = prometheus.query('worker:npu_chip_healthy:bool{worker="npu:0"}')
    assert float(healthy["value"][1]) == CHIP_VALUES["health_status"]
    (used,) = prometheus.query('worker:npu_chip_hbm_used:bytes{instance="npu",worker="npu:0"}')
    assert float(used["value"][1]) == 1e6 * CHIP_VALUES["hbm_used_memory"]
    restarts = prometheus.query('mse_grad_worker_restarts_total{instance="host"}')
    assert [(at["metric"]["worker"], at["metric"]["reason"], at["value"][1]) for at in restarts] == [
        ("cpu:1", "signal", "1")
    ]


def test_every_panel_has_a_description_and_a_unit() -> None:
    for dashboard in dashboards().values():
        for panel in dashboard["panels"]:
            if panel["type"] != "row":
                assert panel["description"].strip()
                assert panel["fieldConfig"]["defaults"]["unit"]
