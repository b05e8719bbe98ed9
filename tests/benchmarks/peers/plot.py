"""Picture of the figures: `python plot.py FIGURES.jsonl PICTURE.png`, in an environment that needs only matplotlib.

It shows median times of one client in float32 by size, both logarithmic; dashed lines are lower bounds.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from matplotlib import colormaps
from matplotlib.figure import Figure

__all__: list[str] = []

_KERNEL, _MEMCPY = ("native kernel", "in-process"), ("memcpy", "in-process")
# Title of each half, and its rows.
_HALVES = (
    (
        "one host",
        (
            ("compute", "same host, client.empty"),
            ("compute", "same host"),
            ("compute", "unix, tuned"),
            ("Arrow Flight", "stream"),
            ("pytriton", "shared memory"),
            ("raw socket", "unix"),
            _KERNEL,
            _MEMCPY,
        ),
    ),
    (
        "TCP",
        (
            ("compute", "tcp, tuned"),
            ("compute", "tcp"),
            ("Arrow Flight", "stream of 128K, tuned"),
            ("Arrow Flight", "stream"),
            ("mosec", "http"),
            ("plain grpcio", "unary"),
            ("kserve", "grpc"),
            ("pytriton", "grpc"),
            ("mlserver", "grpc"),
            ("raw socket", "tcp"),
            _KERNEL,
        ),
    ),
)
_OURS = ("#c1121f", "#f3722c", "#f9a03f")
_FLOORS = {"raw socket": "#666666", "native kernel": "#000000", "memcpy": "#aaaaaa"}
_PEERS = sorted({key for _, keys in _HALVES for key in keys if key[0] not in ("compute", *_FLOORS)})
_COLORS = dict(zip(_PEERS, (colormaps["tab10"](i) for i in (0, 9, 5, 8, 2, 4, 6, 7)), strict=True))
_MARKERS = "osD^vPX<>"
_TIMES = ("1 us", "10 us", "100 us", "1 ms", "10 ms", "100 ms", "1 s", "10 s")
_SIZES = {2**10: "1K", 2**16: "64K", 2**20: "1M", 2**24: "16M"}


def main() -> None:
    """Writes the picture."""
    source, picture = sys.argv[1:3]
    lines = [json.loads(line) for line in Path(source).read_text(encoding="utf-8").splitlines()]
    times_us: dict[tuple[str, str], dict[int, float]] = {}
    for line in lines:
        if line.get("dtype") == "float32" and line["clients"] == 1:
            times_us.setdefault((line["name"], line["transport"]), {})[line["elements"]] = line["p50_us"]
    figure = Figure(figsize=(13, 6.5), layout="constrained")
    halves = figure.subplots(1, 2, sharey=True)
    for half, (title, keys) in zip(halves, _HALVES, strict=True):
        _draw(half, title, [(key, times_us[key]) for key in keys if key in times_us])
    halves[0].set_ylabel("median time of a gradient")
    halves[0].set_yticks([10.0**power for power in range(len(_TIMES))], _TIMES)
    figure.suptitle(
        "One gradient in float32, one client; less is better. Dashed: floors. Tuned: malloc set in the environment",
        fontsize=11,
    )
    figure.savefig(picture, dpi=110)


def _draw(half: Any, title: str, rows: list[tuple[tuple[str, str], dict[int, float]]]) -> None:
    ours = iter(_OURS)
    for number, ((name, transport), points) in enumerate(rows):
        elements = sorted(points)
        floor = name in _FLOORS
        half.plot(
            elements,
            [points[count] for count in elements],
            label=f"{name}, {transport}",
            color=_FLOORS[name] if floor else next(ours) if name == "compute" else _COLORS[name, transport],
            linestyle="--" if floor else "-",
            linewidth=2.4 if name == "compute" else 1.4,
            marker=None if floor else _MARKERS[number],
            markersize=5,
            zorder=3 if name == "compute" else 2,
        )
    half.set(title=title, xlabel="elements of each tensor", xscale="log", yscale="log")
    half.set_xticks(list(_SIZES), list(_SIZES.values()))
    half.minorticks_off()
    half.grid(visible=True, color="#dddddd", linewidth=0.6)
    half.legend(fontsize=8.5, loc="upper left", frameon=False)


if __name__ == "__main__":
    main()
