"""Where the subcommands print."""

from __future__ import annotations

from rich.console import Console

__all__ = ["screen"]

# A log file has no width of its own.
_LOG_WIDTH = 120


def screen() -> Console:
    """Returns stdout as a terminal of its width, or as a file of 120 columns."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = _LOG_WIDTH
    return console
