"""Short runs of the benchmark; long runs judge its figures, not these tests."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.peers import environments
from benchmarks.peers.adapters.operands import Operands
from benchmarks.peers.environments import NotAvailable
from benchmarks.peers.figures import Absence, Figure
from benchmarks.peers.measure import Course, measure
from benchmarks.peers.participants import started
from benchmarks.peers.presets import PRESETS
from benchmarks.peers.processes import Client
from benchmarks.peers.rows import ROWS, SERVERS, Row, Server
from benchmarks.peers.targets import TARGETS, Target
from mse_grad_kernel.native import LIBRARY_PATH

TESTS = Path(__file__).parents[1]
OURS, THEIRS = ("compute", "tcp"), ("Arrow Flight", "stream")

compiled = pytest.mark.skipif(not LIBRARY_PATH.exists(), reason="this install has no compiled kernel")


def figure(key: tuple[str, str], p50_us: float, *, p99_us: float = 1.0) -> Figure:
    return Figure(
        *key,
        version="1.0",
        elements=1024,
        dtype="float32",
        clients=1,
        calls=1,
        p50_us=p50_us,
        p99_us=p99_us,
        gb_per_s=1.0,
        gradients_per_s=1e6 / p50_us,
    )


@compiled
def test_a_short_run_of_the_preset_bench_has_a_figure_for_every_row(tmp_path: Path) -> None:
    output = tmp_path / "bench.jsonl"
    choice = "--preset bench --sizes 1K --dtypes float32 bfloat16 --rounds 1 --budget-s 0"
    subprocess.run(
        [sys.executable, "-m", "benchmarks.peers", *choice.split(), "--output", output],
        env={**os.environ, "PYTHONPATH": str(TESTS)},
        check=True,
        timeout=100,
    )
    lines = [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]
    figures = [line for line in lines if "not_available" not in line]
    rows = [row for row in PRESETS["bench"].rows if row.peer != "pytorch"]  # PyTorch may not be installed
    assert {(line["name"], line["transport"]) for line in lines} >= {row.key for row in rows}
    for dtype in ("float32", "bfloat16"):
        measured = {(line["name"], line["transport"]) for line in figures if line["dtype"] == dtype}
        assert measured >= {row.key for row in rows if dtype in row.dtypes}
    for line in figures:
        assert set(line) == set(Figure.__dataclass_fields__)
        assert line["elements"] == 1024
        assert 0 < line["p50_us"] <= line["p99_us"]
        assert line["gb_per_s"] > 0
        assert line["gradients_per_s"] > 0
        assert line["client_s_per_gb"] > 0
        assert (line["server_s_per_gb"] is None) is (line["name"] in ("native kernel", "NumPy", "PyTorch"))


@pytest.mark.slow
@compiled
def test_a_short_run_has_a_figure_for_every_row(tmp_path: Path) -> None:
    output = tmp_path / "peers.jsonl"
    choice = "--sizes 1K --dtypes float32 --peers raw_socket in_process --rounds 1 --clients 2 --budget-s 0.2"
    subprocess.run(
        [sys.executable, "-m", "benchmarks.peers", *choice.split(), "--output", output],
        env={**os.environ, "PYTHONPATH": str(TESTS)},
        check=True,
        timeout=100,
    )
    lines = [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]
    raw = {("raw socket", "unix"), ("raw socket", "tcp")}
    in_process = {("native kernel", "in-process"), ("memcpy", "in-process")}
    assert {(line["name"], line["transport"]) for line in lines if line["clients"] == 1} == raw | in_process
    assert {(line["name"], line["transport"]) for line in lines if line["clients"] == 2} == raw
    for line in lines:
        assert set(line) == set(Figure.__dataclass_fields__)
        assert (line["elements"], line["dtype"]) == (1024, "float32")
        assert line["gradients_per_s"] > 0
        if line["clients"] == 1:
            assert 0 < line["p50_us"] <= line["p99_us"]


def test_a_server_that_does_not_start_is_reported_with_the_last_line_of_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SERVERS, "broken", Server("no_such_way"))
    row = Row(("broken", "tcp"), "raw_socket:connect", "broken")
    with started([row], tmp_path) as (participants, absences):
        assert participants == []
    (absence,) = absences
    assert absence == Absence("broken", "tcp", "start", absence.not_available)
    assert absence.not_available.startswith("ModuleNotFoundError: No module named ")


@pytest.mark.slow
def test_an_environment_that_cannot_be_made_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environments, "_FOLDER", tmp_path)
    monkeypatch.setitem(environments._REQUIREMENTS, "broken", (str(tmp_path / "no-such-package"),))
    with pytest.raises(NotAvailable, match="no-such-package"):
        environments.python_of("broken")
    assert not (tmp_path / "broken/installed").exists()


def test_a_first_answer_with_other_bits_is_refused(tmp_path: Path) -> None:
    ones = np.ones(4, np.float32)
    Operands(ones, ones, ones, golden=ones).save(tmp_path)
    client = Client(sys.executable, "in_process:kernel", "", environment={}, log=tmp_path / "log")
    try:
        client.version()
        with pytest.raises(NotAvailable, match="other bits than the formula"):
            client.ask("prepare", folder=str(tmp_path), items=1)
    finally:
        client.close()


def test_a_row_that_fails_during_a_run_is_reported_and_the_others_go_on(tmp_path: Path) -> None:
    ones, zeros = np.ones(4, np.float32), np.zeros(4, np.float32)
    for name, golden in (("good", zeros), ("bad", ones)):
        (tmp_path / name).mkdir()
        Operands(ones, ones, ones, golden).save(tmp_path / name)
    rows = [Row((name, "in-process"), "in_process:kernel") for name in ("good", "bad")]
    course = Course(
        "4 float32", elements=4, dtype="float32", folder_of=lambda row: tmp_path / row.key[0], rounds=2, budget_s=0.1
    )
    with started(rows, tmp_path) as (participants, absences):
        figures, failed = measure(participants, course)
    assert absences == []
    assert [figure.name for figure in figures] == ["good"]
    assert [(absence.name, absence.during) for absence in failed] == [("bad", "4 float32")]
    assert "other bits than the formula" in failed[0].not_available


def test_targets_and_rows_name_each_other() -> None:
    keys = {row.key for row in ROWS}
    assert len(keys) == len(ROWS)
    assert {target.ours for target in TARGETS} | {
        target.theirs for target in TARGETS if target.theirs is not None
    } <= keys
    assert {row.server for row in ROWS if row.server} == set(SERVERS)


def test_at_least_is_times_as_fast() -> None:
    target = Target(OURS, THEIRS, 1024, at_least=4.0)
    assert target.ratio([figure(OURS, 100.0), figure(THEIRS, 450.0)]) == pytest.approx(4.5)
    assert target.met(4.5)
    assert not target.met(3.9)


def test_at_most_is_times_as_long() -> None:
    target = Target(OURS, THEIRS, 1024, at_most=2.0)
    assert target.ratio([figure(OURS, 300.0), figure(THEIRS, 100.0)]) == pytest.approx(3.0)
    assert not target.met(3.0)
    assert target.met(1.9)


def test_without_another_row_ours_is_compared_with_its_own_median() -> None:
    assert Target(OURS, None, 1024, at_most=3.0).ratio([figure(OURS, 100.0, p99_us=250.0)]) == pytest.approx(2.5)


def test_a_target_is_for_its_own_dtype() -> None:
    assert (
        Target(OURS, THEIRS, 1024, at_least=4.0, dtype="float16").ratio([figure(OURS, 100.0), figure(THEIRS, 450.0)])
        is None
    )


def test_a_ratio_needs_both_rows() -> None:
    assert Target(OURS, THEIRS, 1024, at_least=4.0).ratio([figure(OURS, 100.0)]) is None
