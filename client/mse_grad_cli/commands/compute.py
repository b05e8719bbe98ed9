"""Subcommand `compute`: the gradient of arrays in files."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

import click
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from mse_grad.reasons import ContractError
from mse_grad.tensor import DTYPES, Array, Reduction
from mse_grad_cli.commands.connection import access_options, address_option, connect, options_of, reached, wait_option
from mse_grad_cli.commands.options import reduction_option
from mse_grad_cli.commands.screen import one_line, size_text
from mse_grad_cli.files.operand import FileOperands, UnusableFile, load
from mse_grad_cli.files.output import written
from mse_grad_client.client import MseGradClient
from mse_grad_client.errors import InvalidArgument, Unimplemented

__all__ = ["compute"]

_DTYPES = {dtype.name: dtype for dtype in DTYPES}
# Bytes of predict in one request: bounds the memory of the command, and is far above what a request costs.
_PART_BYTES = 32 * 2**20


class _Compute(click.Command):
    """The command; an error says what to do if a negative number was read as an option."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Returns the arguments that are left over, as click does."""
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as unknown:
            if unknown.option_name[1:2] not in set("0123456789."):
                raise
            advice = 'Write "--" before PREDICT if DOUT is negative: -o gradient.npy -- predict.npy label.npy -1'
            raise click.UsageError(f"{unknown.format_message()} {advice}", ctx) from unknown


@click.command(cls=_Compute, short_help="Compute the gradient of arrays in .npy files.")
@click.argument("predict")
@click.argument("label")
@click.argument("dout")
@click.option("-o", "--output", default="-", metavar="FILE", help="The gradient's .npy file; default: stdout.")
@address_option
@click.option("--dtype", type=click.Choice(list(_DTYPES)), help="Convert the operands to this element type.")
@reduction_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object about the output file.")
@wait_option
@access_options
def compute(
    predict: str,
    label: str,
    dout: str,
    output: str,
    address: str,
    dtype: str | None,
    reduction: str,
    as_json: bool,
    wait_s: float,
    **access: Any,
) -> None:
    """Compute the gradient of the arrays in the .npy files PREDICT, LABEL and DOUT.

    DOUT may be a number; write "--" before PREDICT if it is negative. "-" reads the next array from stdin; several may
    follow each other there. Files are mapped and computed in parts, so they may be larger than memory. The output file
    appears when it is complete.
    """
    if output == "-" and as_json:
        raise click.UsageError("--json describes an output file: name one with -o FILE")
    if output == "-" and sys.stdout.isatty():
        raise click.UsageError("the gradient is binary and stdout is a terminal: name a file with -o FILE")
    if output != "-" and not os.path.isdir(os.path.dirname(os.path.realpath(output))):
        raise click.BadParameter(f"the folder of {output} does not exist", param_hint="--output")
    operands = _operands(predict, label, dout, dtype)
    started = time.monotonic()
    with connect(address, options_of(**access)) as client, reached(client, wait_s=wait_s), _opened(output) as file:
        try:
            _compute(client, operands, reduction, file)
        except (InvalidArgument, Unimplemented) as refused:
            raise click.UsageError(one_line(str(refused))) from refused
    result = {
        "output": output,
        "shape": list(operands.shape),
        "dtype": operands.dtype.name,
        "reduction": reduction,
        "bytes": operands.predict.size * operands.dtype.itemsize_bytes,
        "duration_s": round(time.monotonic() - started, 6),
    }
    console = Console(stderr=True, highlight=False)
    if as_json:
        click.echo(json.dumps(result, indent=2))
    elif output != "-" and console.is_terminal:
        size = size_text(operands.predict.size * operands.dtype.itemsize_bytes)
        console.print(
            f"{output}: {operands.dtype.name} {list(operands.shape)}, {size} in {result['duration_s']:.2f} s",
            markup=False,
            soft_wrap=True,
        )


def _operands(predict: str, label: str, dout: str, dtype_name: str | None) -> FileOperands:
    dtype = _DTYPES[dtype_name] if dtype_name else None
    loaded: dict[str, Array | float] = {}
    for field, given in (("PREDICT", predict), ("LABEL", label), ("DOUT", dout)):
        number = _number(given) if field == "DOUT" else None
        try:
            loaded[field] = load(given, dtype=dtype, stdin=sys.stdin.buffer) if number is None else number
        except OSError as failure:
            advice = "; DOUT is a .npy file or a number" if field == "DOUT" else ""
            raise click.BadParameter(f"{given}: {failure.strerror}{advice}", param_hint=field) from failure
        except UnusableFile as wrong:
            raise click.BadParameter(str(wrong), param_hint=field) from wrong
    x, t, g = loaded["PREDICT"], loaded["LABEL"], loaded["DOUT"]
    assert isinstance(x, np.ndarray)
    assert isinstance(t, np.ndarray)
    try:
        return FileOperands.of(x, t, g, dtype)
    except ContractError as broken:
        advice = "; --dtype converts them" if "dtype" in str(broken) else ""
        raise click.UsageError(f"{broken}{advice}") from broken


def _number(text: str) -> float | None:
    if os.path.exists(text):
        return None
    try:
        return float(text)
    except ValueError:
        return None


@contextmanager
def _opened(output: str) -> Iterator[BinaryIO]:
    if output == "-":
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    with written(output) as file:
        yield file


def _compute(client: MseGradClient, operands: FileOperands, reduction: str, file: BinaryIO) -> None:
    dtype, count = operands.dtype, operands.predict.size
    numel = count if reduction == Reduction.MEAN.text else 0
    descr = np.lib.format.dtype_to_descr(dtype.numpy)
    header = {"descr": descr, "fortran_order": operands.is_fortran, "shape": operands.shape}
    length = _PART_BYTES // dtype.itemsize_bytes
    y = client.empty(min(length, count), dtype.numpy)
    np.lib.format.write_array_header_1_0(file, header)
    with _progress(count * dtype.itemsize_bytes) as advance:
        for start in range(0, count, length):
            stop = min(start + length, count)
            out = y[: stop - start]
            client.compute(*operands.part(start, stop), reduction, out=out, numel=numel)
            file.write(out.view(np.uint8).data)
            advance(out.nbytes)


@contextmanager
def _progress(size_bytes: int) -> Iterator[Callable[[int], None]]:
    """Yields a function that advances a progress bar on stderr; no bar for small files or without a terminal."""
    console = Console(stderr=True)
    columns = (TextColumn("computing"), BarColumn(), DownloadColumn(binary_units=True), TransferSpeedColumn())
    is_shown = console.is_terminal and size_bytes > _PART_BYTES
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True, disable=not is_shown) as progress:
        task = progress.add_task("", total=size_bytes)
        yield lambda advance_bytes: progress.advance(task, advance_bytes)
