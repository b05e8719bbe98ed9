"""`mse-grad doctor` as a command: verdict, exit code, JSON."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from mse_grad_cli.commands import mse_grad

# The module, which the package's attribute of the same name, the command, hides.
doctor = importlib.import_module("mse_grad_cli.commands.doctor")


def run(*arguments: str) -> Result:
    return CliRunner().invoke(mse_grad, ["doctor", *arguments])


def test_a_client_alone_is_well() -> None:
    result = run()
    assert result.exit_code == 0, result.output
    assert "No problems found." in result.output
    assert "error" not in result.output
    assert "warning" not in result.output


@pytest.mark.parametrize(("missing", "points"), [([], True), (["pydantic-settings"], False)])
def test_it_points_to_the_server_s_doctor_if_the_server_is_installed(
    monkeypatch: pytest.MonkeyPatch, missing: list[str], points: bool
) -> None:
    monkeypatch.setattr(doctor, "missing_of_extra", lambda extra: missing if extra == "server" else [])
    result = run()
    assert ("mse-grad-server doctor checks this host" in " ".join(result.output.split())) is points
    assert json.loads(run("--json").output)["server_installed"] is points


def test_json_has_every_finding_by_section() -> None:
    result = run("--json")
    report = json.loads(result.output)
    assert report["verdict"] == "ok"
    assert list(report["findings"]) == ["client"]
    for findings in report["findings"].values():
        for finding in findings:
            assert set(finding) == {"subject", "level", "text", "advice"}
            assert finding["level"] in ("ok", "warning", "error")
            assert bool(finding["advice"]) is (finding["level"] != "ok")


@pytest.mark.parametrize("arguments", [["nowhere"], ["127.0.0.1:1", "--timeout-s", "0"]])
def test_wrong_usage_ends_with_2(arguments: list[str]) -> None:
    assert run(*arguments).exit_code == 2


def test_a_server_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    result = run(f"unix:{tmp_path}/nobody")
    assert result.exit_code == 1
    assert "is mse-grad-server running there" in result.output
