"""Subcommand `bench`: latency and throughput of a running server."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from mse_grad.tensor import DTYPES
from mse_grad_cli.benchmark.measure import Figures, Load, measure
from mse_grad_cli.benchmark.picture import FORMATS, draw, matplotlib_figure, rate_text, size_name
from mse_grad_cli.commands.connection import access_options, address_argument, connect, options_of, reached, wait_option
from mse_grad_cli.commands.options import json_option, reduction_option
from mse_grad_cli.commands.screen import one_line, screen
from mse_grad_cli.files.output import written
from mse_grad_client.client import MseGradClient
from mse_grad_client.errors import Unimplemented
from mse_grad_client.server_info import ServerInfo

__all__ = ["bench"]

_DTYPES = {dtype.name: dtype for dtype in DTYPES}
_SIZE = re.compile(r"([1-9][0-9]*)([KMG]?)")
_FACTORS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30}
_MAX_ELEMENTS = 2**32


class _Sizes(click.ParamType[list[int]]):
    """Element counts with commas between them, e.g. "1K,64K,1M"."""

    name = "sizes"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[int]:
        """Returns the counts, ascending, each once."""
        if isinstance(value, list):
            return value
        counts = set()
        for text in value.split(","):
            found = _SIZE.fullmatch(text.strip())
            count = int(found[1]) * _FACTORS[found[2]] if found and len(found[1]) < 12 else 0
            if not 0 < count <= _MAX_ELEMENTS:
                self.fail(f"{text!r} is not a count of elements from 1 to 4G, such as 500, 64K or 4M", param, ctx)
            counts.add(count)
        return sorted(counts)


@click.command(short_help="Measure latency and throughput of a server.")
@address_argument
@click.option(
    "--sizes",
    type=_Sizes(),
    default="1K,16K,256K,4M",
    show_default=True,
    help="Elements of the gradients, with commas between them; K, M and G are powers of 1024.",
)
@click.option("--dtype", type=click.Choice(list(_DTYPES)), default="float32", show_default=True, help="Element type.")
@reduction_option
@click.option("--threads", type=click.IntRange(1, 1024), default=1, show_default=True, help="Threads that call.")
@click.option(
    "--seconds",
    type=click.FloatRange(min=0, min_open=True, max=86400),
    default=2.0,
    show_default=True,
    help="Time for each size.",
)
@click.option("--calls", type=click.IntRange(min=1), help="End a size after so many calls of each thread.")
@click.option(
    "--plot",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help=f"Also draw a picture ({', '.join(FORMATS)}); needs the extra 'plot'.",
)
@json_option
@wait_option
@access_options
def bench(
    address: str,
    sizes: list[int],
    dtype: str,
    reduction: str,
    threads: int,
    seconds: float,
    calls: int | None,
    plot: Path | None,
    as_json: bool,
    wait_s: float,
    **access: Any,
) -> None:
    """Measure how fast the server at ADDR computes for this client.

    Each thread computes one gradient after another; latency is the time of a call. Throughput counts the bytes of
    predict, label, dout and gradient. The load competes with other clients of the server.
    """
    if plot:
        _check_plot(plot)
    load = Load(_DTYPES[dtype], reduction, threads, seconds, calls)
    with connect(address, options_of(**access)) as client, reached(client, wait_s=wait_s) as found:
        try:
            figures = _measure_all(client, sizes, load)
        except Unimplemented as refused:
            raise click.UsageError(one_line(str(refused))) from refused
    title = _title(address, found, load)
    if plot:
        with written(str(plot)) as file:
            draw(figures, file, path=plot, title=title)
    if as_json:
        settings = {"address": address, "dtype": dtype, "reduction": reduction, "threads": threads}
        click.echo(json.dumps({**settings, "server": _server(found), "sizes": _rows(figures)}, indent=2))
    else:
        screen().print(title, markup=False)
        screen().print(_table(figures))


def _check_plot(path: Path) -> None:
    if path.suffix not in FORMATS:
        raise click.BadParameter(f"{path} must end with one of {', '.join(FORMATS)}", param_hint="--plot")
    if not path.absolute().parent.is_dir():
        raise click.BadParameter(f"{path.parent} is not a folder", param_hint="--plot")
    try:
        matplotlib_figure()
    except ModuleNotFoundError as missing:
        advice = f"{missing.name} is missing: pip install 'mse-grad[cli,plot]'"
        raise click.BadParameter(advice, param_hint="--plot") from missing


def _measure_all(client: MseGradClient, sizes: Sequence[int], load: Load) -> list[Figures]:
    """Returns the figures of each size; a progress bar on stderr runs meanwhile if that is a terminal."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    figures = []
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=len(sizes) * load.duration_s)
        for number, size in enumerate(sizes):
            before_s = number * load.duration_s
            progress.update(task, description=f"{size_name(size)} elements", completed=before_s)

            def show(elapsed_s: float, before_s: float = before_s) -> None:
                progress.update(task, completed=before_s + min(elapsed_s, load.duration_s))

            figures.append(measure(client, size, load, on_progress=show))
    return figures


def _title(address: str, found: ServerInfo, load: Load) -> str:
    threads = "1 thread" if load.threads == 1 else f"{load.threads} threads"
    transport = found.transport.replace("_", " ")
    server = f"mse-grad {found.version}, {found.backend} ({found.device})"
    return f"{address}: {server}, {transport}, {load.dtype.name}, {load.reduction}, {threads}"


def _table(figures: Sequence[Figures]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 2, 0, 0), pad_edge=False)
    for heading in ("elements", "calls", "p50", "p90", "p99", "max", "gradients/s", "MB/s"):
        table.add_column(heading, justify="right", no_wrap=True)
    for each in figures:
        latencies = [_time_text(value) for value in each.latency_s.values()]
        rates = rate_text(each.gradients_per_s), rate_text(each.bytes_per_s / 1e6)
        table.add_row(size_name(each.elements), f"{each.calls:,}", *latencies, *rates)
    return table


def _time_text(time_s: float) -> str:
    for unit, factor in (("s", 1.0), ("ms", 1e-3)):
        if time_s >= factor:
            return f"{time_s / factor:#.3g} {unit}" if time_s < 100 * factor else f"{time_s / factor:.0f} {unit}"
    return f"{time_s * 1e6:.0f} µs"


def _server(found: ServerInfo) -> dict[str, str]:
    return {
        "version": found.version,
        "backend": found.backend,
        "device": found.device,
        "transport": found.transport,
    }


def _rows(figures: Sequence[Figures]) -> list[dict[str, Any]]:
    return [
        {
            "elements": each.elements,
            "calls": each.calls,
            "duration_s": round(each.duration_s, 6),
            "latency_s": {name: round(value, 9) for name, value in each.latency_s.items()},
            "gradients_per_s": round(each.gradients_per_s, 3),
            "bytes_per_s": round(each.bytes_per_s),
        }
        for each in figures
    ]
