"""Subcommands of `mse-grad`. Exit codes: 0 well, 1 the server is at fault, 2 usage, 3 nobody answered."""

from __future__ import annotations

import click

from mse_grad_client.commands.doctor import doctor
from mse_grad_client.commands.info import info
from mse_grad_client.commands.verify import verify

__all__ = ["mse_grad"]


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="mse-grad")
def mse_grad() -> None:
    """Talk to a server that computes gradients of the mean squared error.

    ADDR is "host:port" or "unix:/path".
    """


mse_grad.add_command(doctor)
mse_grad.add_command(info)
mse_grad.add_command(verify)
