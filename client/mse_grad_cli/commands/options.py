"""Options that several subcommands have, beside those of the connection."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from mse_grad.tensor import Reduction

__all__ = ["json_option", "reduction_option", "timeout_option"]

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
reduction_option = click.option(
    "--reduction",
    type=click.Choice([reduction.text for reduction in Reduction]),
    default="mean",
    show_default=True,
    help="Reduction of the loss.",
)


def timeout_option(text: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Returns the option --timeout-s, whose help begins with `text`."""
    return click.option(
        "--timeout-s",
        type=click.FloatRange(min=0, min_open=True),
        default=5.0,
        show_default=True,
        help=f"{text}, in seconds.",
    )
