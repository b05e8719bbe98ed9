"""Interleaved measuring: every contender a little in each round, in rotating order, so that noise meets all alike."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from benchmarks.contenders import Contender
from benchmarks.operands import Operands
from benchmarks.plain_client import PlainCall
from benchmarks.turns import timed_calls
from mse_grad.tensor import Array

__all__ = ["Figure", "measure"]


@dataclass(frozen=True)
class Figure:
    """What one contender needed for one size and dtype.

    Attributes:
        name: Who.
        transport: How the tensors got there.
        elements: Elements of each tensor.
        dtype: Their type.
        p50_us: Median time of a call, in microseconds.
        p99_us: 99th percentile, likewise.
        gb_per_s: Bytes of three operands and one gradient over the median, in 1e9 bytes a second.
        requests_per_s: Calls a second, one after another.
    """

    name: str
    transport: str
    elements: int
    dtype: str
    p50_us: float
    p99_us: float
    gb_per_s: float
    requests_per_s: float

    def as_json(self) -> dict[str, str | int | float]:
        """Returns the fields, rounded to what they can mean."""
        return {name: round(value, 3) if isinstance(value, float) else value for name, value in asdict(self).items()}


def measure(
    participants: Sequence[Contender], operands: Operands, *, rounds: int, round_budget_s: float
) -> list[Figure]:
    """Returns a figure for each participant that takes the operands.

    Args:
        participants: Who is measured.
        operands: What they compute.
        rounds: Times that each gets a turn.
        round_budget_s: About how long a turn is, in seconds; at least one call whatever it takes.

    Raises:
        AssertionError: A participant that owes the golden bits found others.
    """
    able = [participant for participant in participants if participant.takes(operands)]
    calls = [_checked_call(participant, operands) for participant in able]
    times_s: list[list[float]] = [[] for _ in able]
    for round_number in range(rounds):
        for turn in range(len(able)):
            index = (round_number + turn) % len(able)
            times_s[index] += _turn(calls[index], round_budget_s)
    return [_figure(participant, operands, times) for participant, times in zip(able, times_s, strict=True)]


def _checked_call(participant: Contender, operands: Operands) -> Callable[[], Array]:
    call = participant.prepare(operands)
    y = call()
    if participant.same_bits:
        assert y.tobytes() == operands.golden.tobytes(), f"{participant.key} found other bits than the formula"
    else:
        golden = operands.golden.astype(np.float64)
        error = np.linalg.norm(y.astype(np.float64) - golden) / np.linalg.norm(golden)
        assert error < 0.02, f"{participant.key} found another gradient"
    return call


def _turn(call: Callable[[], Array], budget_s: float) -> list[float]:
    return call.turn(budget_s) if isinstance(call, PlainCall) else timed_calls(call, budget_s)


def _figure(participant: Contender, operands: Operands, times_s: list[float]) -> Figure:
    median_s = statistics.median(times_s)
    return Figure(
        name=participant.key[0],
        transport=participant.key[1],
        elements=operands.elements,
        dtype=operands.dtype.name,
        p50_us=median_s * 1e6,
        p99_us=float(np.quantile(times_s, 0.99)) * 1e6,
        gb_per_s=operands.moved_bytes / median_s / 1e9,
        requests_per_s=len(times_s) / sum(times_s),
    )
