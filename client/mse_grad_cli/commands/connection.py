"""Connection options of the subcommands, and their error if no server answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import reduce
from typing import Any, TypeVar

import click

from mse_grad_cli.commands.screen import one_line
from mse_grad_client.client import MseGradClient
from mse_grad_client.errors import MseGradError, PermissionDenied, TlsFailed, Unauthenticated
from mse_grad_client.options import ClientOptions
from mse_grad_client.server_info import ServerInfo

__all__ = [
    "NoAnswer",
    "access_options",
    "address_argument",
    "address_option",
    "connect",
    "optional_address_argument",
    "options_of",
    "reached",
    "wait_option",
]

Command = TypeVar("Command", bound=Callable[..., Any])

# Errors of a server that runs, and what to do then; the messages of the SDK name its options.
_REFUSALS = (PermissionDenied, TlsFailed, Unauthenticated)
_FLAGS = "The flags for that are --tls-ca, --tls-certificate, --tls-key and --token-file."
_NOBODY = "Is mse-grad-server running there? `mse-grad doctor` looks for the cause."

_ADDRESS_VARIABLE = "MSE_GRAD_ADDR"

address_argument = click.argument("address", metavar="ADDR", envvar=_ADDRESS_VARIABLE)
optional_address_argument = click.argument("address", metavar="[ADDR]", required=False, envvar=_ADDRESS_VARIABLE)
address_option = click.option(
    "-a",
    "--address",
    metavar="ADDR",
    envvar=_ADDRESS_VARIABLE,
    show_envvar=True,
    required=True,
    help="Address of the server.",
)
wait_option = click.option(
    "--wait-s",
    type=click.FloatRange(min=0, min_open=True),
    default=10.0,
    show_default=True,
    help="Maximum wait for the server to become ready, in seconds.",
)


_FILE = click.Path(exists=True, dir_okay=False)
_ACCESS = (
    click.option("--tls", is_flag=True, help="Use TLS and trust public CAs; implied by the other TLS flags."),
    click.option("--tls-ca", type=_FILE, metavar="FILE", help="PEM file of CAs to trust instead of the public ones."),
    click.option("--tls-certificate", type=_FILE, metavar="FILE", help="PEM file of the client's certificate (mTLS)."),
    click.option("--tls-key", type=_FILE, metavar="FILE", help="PEM file of the client's private key."),
    click.option("--tls-server-name", default="", metavar="NAME", help="Expected name in the server's certificate."),
    click.option("--token-file", type=_FILE, metavar="FILE", help="File with the bearer token."),
    click.option("--insecure-token", is_flag=True, help="Send the token to other machines even without TLS."),
)


def access_options(command: Command) -> Command:
    """Adds the flags of TLS and tokens to a subcommand; their names are those of the client's options."""
    return reduce(lambda wrapped, option: option(wrapped), reversed(_ACCESS), command)


class NoAnswer(click.ClickException):
    """The server was unreachable, or stopped answering."""

    exit_code = 3


def options_of(**options: Any) -> ClientOptions:
    """Returns the client's options; raises click.UsageError, exit code 2, if the flags contradict each other."""
    try:
        return ClientOptions(**options)
    except ValueError as wrong:
        raise click.UsageError(str(wrong)) from wrong


def connect(address: str, options: ClientOptions) -> MseGradClient:
    """Returns a client for `address`; raises click.BadParameter, exit code 2, if it is not an address."""
    try:
        return MseGradClient(address, options=options)
    except ValueError as wrong:
        raise click.BadParameter(str(wrong), param_hint="ADDR") from wrong
    except MseGradError as unusable:  # a file of certificates or of the token
        raise click.UsageError(str(unusable)) from unusable


@contextmanager
def reached(client: MseGradClient, *, wait_s: float) -> Iterator[ServerInfo]:
    """Waits until the server is ready and yields its information; turns its errors into `NoAnswer`."""
    try:
        ready = client.wait_ready(wait_s)
    except MseGradError as error:
        advice = _FLAGS if isinstance(error, _REFUSALS) else _NOBODY
        raise NoAnswer(f"no server is ready at {client.address}: {one_line(str(error))}\n{advice}") from error
    try:
        yield ready
    except MseGradError as error:
        raise NoAnswer(f"the server at {client.address} failed: {one_line(str(error))}") from error
