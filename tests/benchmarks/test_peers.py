"""The bench of peers itself works; what it measures is judged in long runs, not here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.peers import crew, environments
from benchmarks.peers.environments import NotAvailable
from benchmarks.peers.figures import Absence, Figure
from benchmarks.peers.goals import GOALS, Goal
from benchmarks.peers.processes import Client
from benchmarks.peers.race import Course, race
from benchmarks.peers.roster import ROWS, SERVERS, Row, Server
from benchmarks.peers.ways.operands import Operands
from mse_grad_server.backends.native import LIBRARY_PATH

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


@pytest.mark.slow
@compiled
def test_a_short_run_has_a_figure_for_everyone(tmp_path: Path) -> None:
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


def test_a_server_that_does_not_start_is_reported_with_its_last_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SERVERS, "broken", Server("no_such_way"))
    row = Row(("broken", "tcp"), "raw_socket:connect", "broken")
    with crew.crew([row], tmp_path) as (participants, absences):
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


def test_who_fails_on_the_way_is_reported_and_the_others_go_on(tmp_path: Path) -> None:
    ones, zeros = np.ones(4, np.float32), np.zeros(4, np.float32)
    for name, golden in (("good", zeros), ("bad", ones)):
        (tmp_path / name).mkdir()
        Operands(ones, ones, ones, golden).save(tmp_path / name)
    rows = [Row((name, "in-process"), "in_process:kernel") for name in ("good", "bad")]
    course = Course(
        "4 float32", elements=4, dtype="float32", folder_of=lambda row: tmp_path / row.key[0], rounds=2, budget_s=0.1
    )
    with crew.crew(rows, tmp_path) as (participants, absences):
        figures, failed = race(participants, course)
    assert absences == []
    assert [figure.name for figure in figures] == ["good"]
    assert [(absence.name, absence.during) for absence in failed] == [("bad", "4 float32")]
    assert "other bits than the formula" in failed[0].not_available


def test_goals_and_rows_speak_of_each_other() -> None:
    keys = {row.key for row in ROWS}
    assert len(keys) == len(ROWS)
    assert {goal.ours for goal in GOALS} | {goal.theirs for goal in GOALS if goal.theirs is not None} <= keys
    assert {row.server for row in ROWS if row.server} == set(SERVERS)


def test_at_least_is_times_as_fast() -> None:
    goal = Goal(OURS, THEIRS, 1024, at_least=4.0)
    assert goal.ratio([figure(OURS, 100.0), figure(THEIRS, 450.0)]) == pytest.approx(4.5)
    assert goal.met(4.5)
    assert not goal.met(3.9)


def test_at_most_is_times_as_long() -> None:
    goal = Goal(OURS, THEIRS, 1024, at_most=2.0)
    assert goal.ratio([figure(OURS, 300.0), figure(THEIRS, 100.0)]) == pytest.approx(3.0)
    assert not goal.met(3.0)
    assert goal.met(1.9)


def test_alone_ours_is_compared_with_its_own_median() -> None:
    assert Goal(OURS, None, 1024, at_most=3.0).ratio([figure(OURS, 100.0, p99_us=250.0)]) == pytest.approx(2.5)


def test_a_ratio_needs_both() -> None:
    assert Goal(OURS, THEIRS, 1024, at_least=4.0).ratio([figure(OURS, 100.0)]) is None
