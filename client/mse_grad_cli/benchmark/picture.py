"""Picture of a benchmark: distribution of latency, and throughput by size; needs matplotlib."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from mse_grad_cli.benchmark.measure import Figures

__all__ = ["FORMATS", "draw", "matplotlib_figure", "rate_text", "size_name"]

FORMATS = (".png", ".svg", ".pdf")
# Of the points of a curve, so that a picture of millions of calls stays small.
_POINTS = 1000
_UNITS_S = {"µs": 1e-6, "ms": 1e-3, "s": 1.0}
_MAX_TICKS = 8


def matplotlib_figure() -> Any:
    """Returns matplotlib's class Figure, which needs no display; raises ModuleNotFoundError if it is missing."""
    return importlib.import_module("matplotlib.figure").Figure


def draw(figures: Sequence[Figures], file: BinaryIO, *, path: Path, title: str) -> None:
    """Draws the figures of several sizes.

    Args:
        figures: The figures, by ascending size.
        file: Where the picture goes.
        path: Path whose suffix, one of `FORMATS`, is the format.
        title: Title of the picture.
    """
    picture = matplotlib_figure()(figsize=(11, 4.5), dpi=150, layout="constrained")
    picture.suptitle(title, fontsize=10)
    latency, throughput = picture.subplots(1, 2)
    _draw_latency(latency, figures)
    _draw_throughput(throughput, figures)
    picture.savefig(file, format=path.suffix[1:])


def _draw_latency(axes: Any, figures: Sequence[Figures]) -> None:
    shades = np.linspace(0.0, 0.85, len(figures))
    colormap = importlib.import_module("matplotlib").colormaps["viridis"]
    percent = np.linspace(0, 100, _POINTS)
    for each, shade in zip(figures, shades, strict=True):
        axes.plot(
            np.percentile(each.latencies_s, percent), percent, color=colormap(shade), label=size_name(each.elements)
        )
    axes.set_xscale("log")
    low = min(each.latencies_s[0] for each in figures)
    high = max(each.latencies_s[-1] for each in figures)
    axes.set_xlim(low / 1.2, high * 1.2)
    ticks_s = _ticks_s(low / 1.2, high * 1.2)
    axes.set_xticks(list(ticks_s.values()), list(ticks_s))
    axes.set_xticks([], minor=True)
    axes.set(xlabel="latency", ylabel="calls that took at most this long, %", title="Latency", ylim=(0, 101))
    axes.grid(alpha=0.3)
    axes.legend(title="elements", frameon=False, loc="upper left", bbox_to_anchor=(1, 1))


def _ticks_s(low_s: float, high_s: float) -> dict[str, float]:
    """Returns the labels of the axis and their places: 1, 2, 5, 10, ... or, if those are too many, 1, 10, 100, ..."""
    fine = _labelled_s((1, 2, 5), low_s, high_s)
    return fine if len(fine) <= _MAX_TICKS else _labelled_s((1,), low_s, high_s)


def _labelled_s(digits: Sequence[int], low_s: float, high_s: float) -> dict[str, float]:
    return {
        f"{digit * power} {unit}": digit * power * factor
        for unit, factor in _UNITS_S.items()
        for power in (1, 10, 100)
        for digit in digits
        if low_s <= digit * power * factor <= high_s
    }


def _draw_throughput(axes: Any, figures: Sequence[Figures]) -> None:
    names = [size_name(each.elements) for each in figures]
    bars = axes.bar(names, [each.bytes_per_s / 1e9 for each in figures], color="#3b6ea8", width=0.6)
    font_size = 9 if len(figures) <= _MAX_TICKS else 7  # or labels of neighbours would overlap
    axes.bar_label(bars, [rate_text(each.gradients_per_s) for each in figures], padding=2, fontsize=font_size)
    axes.tick_params(axis="x", labelsize=font_size)
    axes.set(
        xlabel="elements",
        ylabel="predict, label, dout and gradient, GB/s",
        title="Throughput; numbers are gradients per second",
    )
    axes.margins(y=0.12)
    axes.grid(axis="y", alpha=0.3)
    axes.set_axisbelow(True)


def size_name(elements: int) -> str:
    """Returns a count in its largest exact binary unit, e.g. "64K"."""
    for unit, factor in (("G", 2**30), ("M", 2**20), ("K", 2**10)):
        if elements >= factor and elements % factor == 0:
            return f"{elements // factor}{unit}"
    return f"{elements:,}"


def rate_text(rate_per_s: float) -> str:
    """Returns a rate with three digits or all of its whole part, e.g. "37.7" or "2,532"."""
    return f"{rate_per_s:,.0f}" if rate_per_s >= 100 else f"{rate_per_s:.3g}"
