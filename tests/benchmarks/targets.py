"""What the benchmark is judged by: ratios of medians of one run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.contenders import KERNEL, OURS_STREAM, PLAIN, TORCH
from benchmarks.rounds import Figure

__all__ = ["TARGETS", "Target"]


@dataclass(frozen=True)
class Target:
    """`ours` must be at least `factor` times as fast as `theirs`."""

    ours: tuple[str, str]
    theirs: tuple[str, str]
    elements: int
    dtype: str
    factor: float

    def ratio(self, figures: Sequence[Figure]) -> float | None:
        """Returns how many times as fast ours was, or None where one of the two was not measured."""
        p50_us = {
            (figure.name, figure.transport): figure.p50_us
            for figure in figures
            if (figure.elements, figure.dtype) == (self.elements, self.dtype)
        }
        if self.ours not in p50_us or self.theirs not in p50_us:
            return None
        return p50_us[self.theirs] / p50_us[self.ours]


TARGETS = (
    Target(KERNEL, TORCH, 2**20, "float32", 1.2),
    Target(KERNEL, TORCH, 2**20, "float16", 2.5),
    Target(KERNEL, TORCH, 2**20, "bfloat16", 2.5),
    Target(OURS_STREAM, PLAIN, 2**10, "float32", 1.4),
    Target(OURS_STREAM, PLAIN, 2**20, "float32", 4.0),
    Target(OURS_STREAM, PLAIN, 2**24, "float32", 4.0),
)
