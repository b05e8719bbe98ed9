"""What the subcommands share: reaching a server, or saying that nobody answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import reduce
from typing import Any, TypeVar

import click

from mse_grad_client.client import MseGradClient
from mse_grad_client.errors import MseGradError
from mse_grad_client.info import ServerInfo
from mse_grad_client.options import ClientOptions

__all__ = ["NoAnswer", "access_options", "connect", "options_of", "reached", "wait_option"]

Command = TypeVar("Command", bound=Callable[..., Any])

wait_option = click.option(
    "--wait-s",
    type=click.FloatRange(min=0, min_open=True),
    default=10.0,
    show_default=True,
    help="Time for the server to become ready, in seconds.",
)


_FILE = click.Path(exists=True, dir_okay=False)
_ACCESS = (
    click.option("--tls", is_flag=True, help="Speak TLS and trust public CAs; implied by the others of TLS."),
    click.option("--tls-ca", type=_FILE, metavar="FILE", help="CAs to trust instead, in PEM."),
    click.option("--tls-certificate", type=_FILE, metavar="FILE", help="Own certificate, in PEM (mTLS)."),
    click.option("--tls-key", type=_FILE, metavar="FILE", help="Its private key, in PEM."),
    click.option("--tls-server-name", default="", metavar="NAME", help="Name to expect in the server's certificate."),
    click.option("--token-file", type=_FILE, metavar="FILE", help="File with the token to show."),
    click.option("--insecure-token", is_flag=True, help="Show the token without TLS to other machines too."),
)


def access_options(command: Command) -> Command:
    """Adds the flags of TLS and the token to a subcommand, under the names of the client's options."""
    return reduce(lambda wrapped, option: option(wrapped), reversed(_ACCESS), command)


class NoAnswer(click.ClickException):
    """The server could not be reached, or broke off."""

    exit_code = 3


def options_of(**options: Any) -> ClientOptions:
    """Returns the client's options; raises click.UsageError, exit code 2, where the flags contradict each other."""
    try:
        return ClientOptions(**options)
    except ValueError as wrong:
        raise click.UsageError(str(wrong)) from wrong


def connect(address: str, options: ClientOptions) -> MseGradClient:
    """Returns a client for `address`; raises click.BadParameter, exit code 2, where it is none."""
    try:
        return MseGradClient(address, options=options)
    except ValueError as wrong:
        raise click.BadParameter(str(wrong), param_hint="ADDR") from wrong
    except MseGradError as unusable:  # a file of certificates or of the token
        raise click.UsageError(str(unusable)) from unusable


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
