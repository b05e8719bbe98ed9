"""The benchmark itself works; what it measures is judged in long runs, not here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from benchmarks.contenders import KERNEL, NUMPY, OURS_COPIED, OURS_SHARED, OURS_STREAM, OURS_UNARY, OURS_UNIX, PLAIN
from benchmarks.rounds import Figure
from benchmarks.targets import Target

TESTS = Path(__file__).parents[1]


def figure(key: tuple[str, str], p50_us: float) -> Figure:
    return Figure(*key, elements=1024, dtype="float32", p50_us=p50_us, p99_us=1.0, gb_per_s=1.0, requests_per_s=1.0)


def test_a_quick_run_has_a_figure_for_everyone(tmp_path: Path) -> None:
    output = tmp_path / "bench.jsonl"
    subprocess.run(
        [sys.executable, "-m", "benchmarks.bench", "--quick", "--output", output],
        env={**os.environ, "PYTHONPATH": str(TESTS)},
        check=True,
        timeout=100,
    )
    rows = [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]
    float32 = {(row["name"], row["transport"]) for row in rows if row["dtype"] == "float32"}
    assert float32 >= {OURS_STREAM, OURS_COPIED, OURS_SHARED, OURS_UNARY, OURS_UNIX, PLAIN, KERNEL, NUMPY}
    for row in rows:
        assert set(row) == set(Figure.__dataclass_fields__)
        assert row["elements"] == 1024
        assert 0 < row["p50_us"] <= row["p99_us"]
        assert row["gb_per_s"] > 0
        assert row["requests_per_s"] > 0


def test_a_ratio_is_theirs_over_ours() -> None:
    target = Target(OURS_STREAM, PLAIN, 1024, "float32", 4.0)
    assert target.ratio([figure(OURS_STREAM, 100.0), figure(PLAIN, 450.0)]) == 4.5


def test_a_ratio_needs_both() -> None:
    target = Target(OURS_STREAM, PLAIN, 1024, "float32", 4.0)
    assert target.ratio([figure(OURS_STREAM, 100.0)]) is None
