"""Presets of the benchmark: the rows and dtypes of `make bench`, `make bench-peers`, and of tasks against threads."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from benchmarks.peers.rows import ROWS, Key, Row

__all__ = ["PRESETS", "Preset"]


@dataclass(frozen=True)
class Preset:
    """Defaults of a run.

    Attributes:
        rows: The rows that take part.
        dtypes: Names of the dtypes.
        clients: Client processes at a time for the rate of small gradients; 1 to leave them out.
        budget_s: About how long to measure, in seconds.
        output: File for the figures, as JSON lines.
    """

    rows: tuple[Row, ...]
    dtypes: tuple[str, ...]
    clients: int
    budget_s: float
    output: Path


# Every transport of ours, against plain grpcio and against the same work in the caller's process.
_BENCH: tuple[Key, ...] = (
    ("compute", "same host, client.empty"),
    ("compute", "same host"),
    ("compute", "unix"),
    ("compute", "tcp"),
    ("compute_unary", "tcp"),
    ("plain grpcio", "unary"),
    ("native kernel", "in-process, new array"),
    ("NumPy", "in-process, new array"),
    ("PyTorch", "in-process, new array"),
    ("PyTorch", "in-process"),
)
_ONLY_IN_BENCH: tuple[Key, ...] = (
    ("compute", "unix"),
    ("compute_unary", "tcp"),
    ("native kernel", "in-process, new array"),
    ("NumPy", "in-process, new array"),
    ("PyTorch", "in-process, new array"),
    ("PyTorch", "in-process"),
)
# The same work by threads of the blocking client, and by tasks of the one with `await`.
_TASKS: tuple[Key, ...] = (
    ("16 threads", "same host"),
    ("16 tasks", "same host"),
    ("16 threads", "tcp"),
    ("16 tasks", "tcp"),
)

PRESETS = {
    "bench": Preset(
        rows=tuple(row for row in ROWS if row.key in _BENCH),
        dtypes=("float32", "float16", "bfloat16"),
        clients=1,
        budget_s=120.0,
        output=Path("build/bench.jsonl"),
    ),
    "peers": Preset(
        rows=tuple(row for row in ROWS if row.key not in (*_ONLY_IN_BENCH, *_TASKS)),
        dtypes=("float32", "float16"),
        clients=4,
        budget_s=150.0,
        output=Path("build/bench-peers.jsonl"),
    ),
    "tasks": Preset(
        rows=tuple(row for row in ROWS if row.key in _TASKS),
        dtypes=("float32",),
        clients=1,
        budget_s=30.0,
        output=Path("build/bench-tasks.jsonl"),
    ),
}
