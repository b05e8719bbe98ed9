"""`mse-grad doctor` as a command: verdict, exit code, JSON."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from mse_grad_client.commands import mse_grad

NO_ASCEND = {"ASCEND_HOME_PATH": None, "ASCEND_TOOLKIT_HOME": None}


def run(*arguments: str) -> Result:
    return CliRunner().invoke(mse_grad, ["doctor", *arguments], env=NO_ASCEND)


def test_a_laptop_without_an_npu_is_a_fine_client(tmp_path: Path) -> None:
    result = run("--root", str(tmp_path))
    assert result.exit_code == 0, result.output
    assert "All is well. This machine shows no Ascend NPU and no driver for one; a client needs none." in result.output
    assert "error" not in result.output
    assert "warning" not in result.output


def test_it_looks_for_what_a_host_of_an_npu_lacks_where_so_told(tmp_path: Path) -> None:
    result = run("--root", str(tmp_path), "--npu")
    assert result.exit_code == 1
    assert "install the CANN toolkit" in result.output
    assert "Errors: 6" in result.output


def test_no_npu_is_looked_for_where_so_told(tmp_path: Path) -> None:
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/davinci0").touch()
    assert run("--root", str(tmp_path)).exit_code == 1
    assert run("--root", str(tmp_path), "--no-npu").exit_code == 0


def test_json_has_every_finding_by_section(tmp_path: Path) -> None:
    result = run("--root", str(tmp_path), "--npu", "--json")
    assert result.exit_code == 1
    report = json.loads(result.output)
    assert (report["verdict"], report["npu_host"]) == ("error", True)
    assert list(report["findings"]) == ["client", "host of an NPU"]
    for findings in report["findings"].values():
        for finding in findings:
            assert set(finding) == {"subject", "level", "text", "advice"}
            assert finding["level"] in ("ok", "warning", "error")
            assert bool(finding["advice"]) is (finding["level"] != "ok")


@pytest.mark.parametrize("arguments", [["nowhere"], ["127.0.0.1:1", "--timeout-s", "0"], ["--root", "/no/such/folder"]])
def test_wrong_usage_ends_with_2(arguments: list[str]) -> None:
    assert run(*arguments).exit_code == 2


def test_a_server_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    result = run(f"unix:{tmp_path}/nobody", "--root", str(tmp_path))
    assert result.exit_code == 1
    assert "is mse-grad-server running there" in result.output
