"""deploy/prometheus and deploy/alertmanager, checked by promtool and amtool."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from support.deploy.dashboards import dashboards
from support.deploy.prometheus import DEPLOY
from support.tools import require_program

pytestmark = pytest.mark.one_python

RULES = DEPLOY / "prometheus"
ALERTS = [rule for group in yaml.safe_load((RULES / "alerts.yml").read_text())["groups"] for rule in group["rules"]]


def promtool(*arguments: str, folder: Path = RULES) -> subprocess.CompletedProcess[str]:
    program = require_program("promtool")
    return subprocess.run([program, *arguments], cwd=folder, capture_output=True, text=True, timeout=60, check=False)


def test_the_configuration_and_the_rules_are_valid() -> None:
    ended = promtool("check", "config", "--lint=all", "--lint-fatal", "prometheus.yml")
    assert ended.returncode == 0, ended.stdout + ended.stderr


def test_the_example_of_alertmanager_is_valid() -> None:
    config = str(DEPLOY / "alertmanager/alertmanager.yml")
    command = [require_program("amtool"), "check-config", config]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr


def test_every_alert_fires_when_it_should_and_only_then() -> None:
    ended = promtool("test", "rules", "tests.yml")
    assert ended.returncode == 0, ended.stdout + ended.stderr


@pytest.mark.slow
@pytest.mark.parametrize("broken", ["vector(0) > 1", "vector(1) > 0"], ids=["never", "always"])
def test_alerts_that_never_or_always_fire_are_all_found(broken: str, tmp_path: Path) -> None:
    for name in ("rules.yml", "alerts.yml", "tests.yml"):
        shutil.copy(RULES / name, tmp_path)
    content = yaml.safe_load((tmp_path / "alerts.yml").read_text())
    for rule in content["groups"][0]["rules"]:
        rule["expr"] = broken
    (tmp_path / "alerts.yml").write_text(yaml.safe_dump(content))
    ended = promtool("test", "rules", "tests.yml", folder=tmp_path)
    assert ended.returncode == 1
    assert [rule["alert"] for rule in ALERTS if rule["alert"] not in ended.stdout + ended.stderr] == []


@pytest.mark.parametrize("rule", ALERTS, ids=[rule["alert"] for rule in ALERTS])
def test_every_alert_has_a_severity_a_summary_and_a_runbook(rule: dict[str, dict[str, str]]) -> None:
    assert rule["labels"]["severity"] in ("page", "ticket")
    assert rule["annotations"]["summary"].strip()
    assert len(rule["annotations"]["runbook"].split()) >= 12


def test_the_page_lists_every_alert_with_its_severity() -> None:
    page = (DEPLOY.parent / "docs/metrics.md").read_text()
    listed = re.findall(r"^\| `(MseGrad\w+)` \| (\w+) \|", page, re.MULTILINE)
    assert sorted(listed) == sorted((rule["alert"], rule["labels"]["severity"]) for rule in ALERTS)


def test_runbooks_name_existing_panels_and_dashboards() -> None:
    shown = dashboards().values()
    titles = {panel["title"] for dashboard in shown for panel in dashboard["panels"]}
    titles |= {dashboard["title"] for dashboard in shown}
    named = {name for rule in ALERTS for name in re.findall(r'"([A-Zm][^"]+ [^"]+)"', rule["annotations"]["runbook"])}
    assert len(named) > 8
    assert named - titles == set()
