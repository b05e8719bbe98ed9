"""What the subcommands share: reaching a server, or saying that nobody answers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from mse_grad_client.client import MseGradClient
from mse_grad_client.errors import MseGradError
from mse_grad_client.info import ServerInfo
from mse_grad_client.options import ClientOptions

__all__ = ["NoAnswer", "connect", "reached", "wait_option"]

wait_option = click.option(
    "--wait-s",
    type=click.FloatRange(min=0, min_open=True),
    default=10.0,
    show_default=True,
    help="Time for the server to become ready, in seconds.",
)


class NoAnswer(click.ClickException):
    """The server could not be reached, or broke off."""

    exit_code = 3


def connect(address: str, **options: Any) -> MseGradClient:
    """Returns a client for `address`; raises click.BadParameter, exit code 2, where it is none."""
    try:
        return MseGradClient(address, options=ClientOptions(**options))
    except ValueError as wrong:
        raise click.BadParameter(str(wrong), param_hint="ADDR") from wrong


@contextmanager
def reached(client: MseGradClient, *, wait_s: float) -> Iterator[ServerInfo]:
    """Gives what the server says about itself once it is ready; turns what goes wrong with it into `NoAnswer`."""
    try:
        ready = client.wait_ready(wait_s)
    except MseGradError as error:
        raise NoAnswer(f"no server is ready at {client.address}: {error}\nIs mse-grad-server running there?") from error
    try:
        yield ready
    except MseGradError as error:
        raise NoAnswer(f"the server at {client.address} broke off: {error}") from error
