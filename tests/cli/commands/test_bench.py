"""`mse-grad bench`: table, JSON, picture."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from mse_grad_cli.commands import mse_grad
from support.server.server_process import ServerProcess
from support.tools import require_module


@pytest.fixture(autouse=True)
def address(server: ServerProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MSE_GRAD_ADDR", server.address)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(mse_grad, ["bench", "--seconds", "60", "--calls", "5", *arguments])


def test_the_table_has_a_row_for_each_size() -> None:
    result = run("--sizes", "2K,500,500")
    assert result.exit_code == 0, result.output
    rows = [line.split() for line in result.output.splitlines()]
    assert [row[:2] for row in rows if row[:1] in (["500"], ["2K"])] == [["500", "5"], ["2K", "5"]]
    assert "float32, mean, 1 thread" in result.output


def test_json_counts_the_calls_of_all_threads() -> None:
    result = run("--sizes", "64", "--threads", "3", "--dtype", "float16", "--json")
    report = json.loads(result.output)
    assert (report["dtype"], report["threads"], report["server"]["backend"]) == ("float16", 3, "cpu")
    (row,) = report["sizes"]
    assert (row["elements"], row["calls"]) == (64, 15)
    latency_s = row["latency_s"]
    assert 0 < latency_s["p50"] <= latency_s["p90"] <= latency_s["p99"] <= latency_s["max"]
    assert row["gradients_per_s"] == pytest.approx(15 / row["duration_s"], rel=1e-3)
    assert row["bytes_per_s"] == pytest.approx(15 * 4 * 2 * 64 / row["duration_s"], rel=1e-3)


@pytest.mark.parametrize("sizes", ["", "0", "1X", "-1", "1K,,2K", "8G", "9" * 5000])
def test_a_wrong_size_ends_with_2_and_names_what_is_allowed(sizes: str) -> None:
    result = run("--sizes", sizes)
    assert result.exit_code == 2
    assert "is not a count of elements from 1 to 4G" in " ".join(result.output.split())


@pytest.mark.parametrize(
    ("path", "words"), [("y.gif", "must end with one of .png, .svg, .pdf"), ("gone/y.png", "gone is not a folder")]
)
def test_a_picture_that_cannot_be_written_ends_with_2(path: str, words: str) -> None:
    result = run("--plot", path)
    assert result.exit_code == 2
    assert words in result.output


def test_without_matplotlib_it_names_the_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    result = run("--plot", str(tmp_path / "y.png"))
    assert result.exit_code == 2
    assert "pip install 'mse-grad[cli,plot]'" in result.output


def test_without_a_picture_matplotlib_is_not_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert run("--sizes", "1").exit_code == 0


@pytest.mark.slow  # like all tests that need more than `make test` installs
def test_the_picture_is_drawn(tmp_path: Path) -> None:
    require_module("matplotlib")
    for name, magic in (("y.png", b"\x89PNG"), ("y.svg", b"<?xml"), ("y.pdf", b"%PDF")):
        path = tmp_path / name
        result = run("--sizes", "1K,64", "--plot", str(path))
        assert result.exit_code == 0, result.output
        assert path.read_bytes().startswith(magic)
