"""Subcommand `health`: whether a server accepts requests, as text and as exit code."""

from __future__ import annotations

import json
from typing import Any

import click
import grpc
from rich.text import Text

from mse_grad_cli.commands.connection import NoAnswer, access_options, address_argument, options_of
from mse_grad_cli.commands.options import json_option, timeout_option
from mse_grad_cli.commands.screen import one_line, screen
from mse_grad_cli.health import SERVING, health_of
from mse_grad_client.errors import MseGradError, TlsFailed, from_rpc_error
from mse_grad_client.routing.credentials import Credentials

__all__ = ["health"]


@click.command(short_help="Say whether a server accepts requests.")
@address_argument
@json_option
@timeout_option("Time limit of the answer")
@access_options
@click.pass_context
def health(context: click.Context, /, address: str, as_json: bool, timeout_s: float, **access: Any) -> None:
    """Say whether the server at ADDR accepts requests, by the gRPC health protocol.

    Exits with 0 if it does, 1 if it answers that it does not (it starts, drains or repairs its device), 3 if it does
    not answer.
    """
    options = options_of(**access)
    try:
        state = health_of(address, Credentials(options, given=address), timeout_s=timeout_s)
    except ValueError as wrong:
        raise click.BadParameter(str(wrong), param_hint="ADDR") from wrong
    except MseGradError as unusable:  # a file of certificates or of the token
        raise click.UsageError(str(unusable)) from unusable
    except grpc.RpcError as failure:
        why = from_rpc_error(failure, address=address)
        if isinstance(why, TlsFailed):
            raise NoAnswer(str(why)) from failure
        raise NoAnswer(
            f"no answer from {address}: {failure.code().name}: {one_line(failure.details() or '')}"
        ) from failure
    serves = state == SERVING
    if as_json:
        click.echo(json.dumps({"address": address, "status": state, "serving": serves}, indent=2))
    else:
        screen().print(Text(state, style="green" if serves else "bold red"))
    context.exit(0 if serves else 1)
