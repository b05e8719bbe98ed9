"""Subcommands of `mse-grad`.

docs/command-line.md has the exit codes.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from mse_grad.version import VERSION
from mse_grad_cli.commands.bench import bench
from mse_grad_cli.commands.compute import compute
from mse_grad_cli.commands.doctor import doctor
from mse_grad_cli.commands.health import health
from mse_grad_cli.commands.info import info
from mse_grad_cli.commands.verify import verify

__all__ = ["NOT_PRINTED", "StoppedBySystem", "mse_grad"]

NOT_PRINTED = 4
"""Exit code of a command whose output could not be written."""
_INTERRUPTED = 130


class StoppedBySystem(Exception):
    """A system error ended the command, usually a full disk or a closed pipe behind stdout."""


class _Commands(click.Group):
    """Reserves exit code 1 for faulty servers; click uses it for closed pipes and Ctrl-C, Python for full disks."""

    def make_context(self, *args: Any, **extra: Any) -> click.Context:
        with _ended_in_words():  # --help and --version print here
            return super().make_context(*args, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        with _ended_in_words():
            return super().invoke(ctx)


@contextmanager
def _ended_in_words() -> Iterator[None]:
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except OSError as error:
        raise StoppedBySystem(error.strerror or str(error)) from error
    except KeyboardInterrupt:
        raise click.exceptions.Exit(_INTERRUPTED) from None


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(VERSION)
def mse_grad() -> None:
    """Talk to a server that computes gradients of the mean squared error.

    ADDR is "host:port" or "unix:/path"; the variable MSE_GRAD_ADDR is its default.

    Exit codes: 0 success, 1 the server is faulty or not serving, 2 wrong usage, 3 no answer, 4 the output cannot be
    written, 130 after Ctrl-C.
    """


mse_grad.add_command(bench)
mse_grad.add_command(compute)
mse_grad.add_command(doctor)
mse_grad.add_command(health)
mse_grad.add_command(info)
mse_grad.add_command(verify)
