"""The dashboards as files: up to date, and valid by Grafana's own schema."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from support.deploy.dashboards import dashboards
from support.deploy.prometheus import DEPLOY
from support.tools import require_program

# The Grafana release of the types. The compiler is pinned too, because a new one may reject what the old one accepted.
PACKAGES = ("@grafana/schema@13.2.3", "typescript@5.9.3")
TYPES = """
import type { AnnotationQuery, Dashboard } from '@grafana/schema';
import type * as stat from '@grafana/schema/dist/esm/raw/composable/stat/panelcfg/x/StatPanelCfg_types.gen';
import type * as timeseries from
  '@grafana/schema/dist/esm/raw/composable/timeseries/panelcfg/x/TimeSeriesPanelCfg_types.gen';

// A file has the values of enums, not their names.
type Plain<T> = T extends string ? `${T}` : T extends object ? { [Key in keyof T]: Plain<T[Key]> } : T;
// The schema knows the targets of Grafana's own annotations only.
type Mark = Omit<Plain<AnnotationQuery>, 'target'> & {
  target: { refId: string; expr: string }; titleFormat: string; useValueForTime: boolean;
};
type File = Omit<Plain<Dashboard>, 'annotations'> & { annotations: { list: Mark[] } };
"""


def typed(dashboard: dict[str, Any]) -> str:
    """Returns TypeScript that compiles if the dashboard has Grafana's types."""
    lines = [TYPES, f"export const dashboard: File = {json.dumps(dashboard)};"]
    for panel in dashboard["panels"]:
        if panel["type"] == "row":
            continue
        name = f"panel{panel['id']}"
        lines.append(f"export const {name}: Plain<{panel['type']}.Options> = {json.dumps(panel['options'])};")
        if panel["type"] == "timeseries":
            custom = json.dumps(panel["fieldConfig"]["defaults"]["custom"])
            lines.append(f"export const {name}lines: Plain<timeseries.FieldConfig> = {custom};")
    return "\n".join(lines)


def test_the_dashboards_are_fresh() -> None:
    program = "import json; from source.__main__ import dashboards; print(json.dumps(dashboards()))"
    command = [sys.executable, "-c", program]
    ended = subprocess.run(command, cwd=DEPLOY / "grafana", capture_output=True, text=True, timeout=60, check=True)
    made = json.loads(ended.stdout)
    assert {path.name: path.read_text() for path in (DEPLOY / "grafana/dashboards").iterdir()} == made


def test_links_variables_and_marks_are_the_same_on_all() -> None:
    given = dashboards()
    assert sorted(given) == ["client.json", "device.json", "service.json"]
    assert len({dashboard["uid"] for dashboard in given.values()}) == len(given)
    for part in ("links", "templating", "annotations"):
        assert len({json.dumps(dashboard[part]) for dashboard in given.values()}) == 1
    assert [at["name"] for at in given["service.json"]["templating"]["list"]] == ["instance", "worker"]


@pytest.mark.slow
def test_the_dashboards_have_the_types_of_grafana(tmp_path: Path) -> None:
    npm, npx = require_program("npm"), require_program("npx")
    subprocess.run([npm, "install", "--no-save", *PACKAGES], cwd=tmp_path, capture_output=True, timeout=100, check=True)
    flags = ["--strict", "--noEmit", "--skipLibCheck", "--module", "preserve", "--target", "es2022"]

    def compiled(dashboard: dict[str, Any]) -> subprocess.CompletedProcess[str]:
        (tmp_path / "dashboard.ts").write_text(typed(dashboard))
        command = [npx, "tsc", *flags, "dashboard.ts"]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=100, check=False)

    for name, dashboard in dashboards().items():
        ended = compiled(dashboard)
        assert ended.returncode == 0, f"{name}: {ended.stdout}"
    wrong = dashboards()["service.json"]
    wrong["panels"][1]["options"]["colorMode"] = "backgruond"
    assert "backgruond" in compiled(wrong).stdout
