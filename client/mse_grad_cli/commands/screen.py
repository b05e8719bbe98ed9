"""Console of the subcommands, and sizes as people read them."""

from __future__ import annotations

from rich.console import Console

__all__ = ["screen", "size_text"]

# Width for files, which have none of their own.
_LOG_WIDTH = 120


class _Screen(Console):
    def on_broken_pipe(self) -> None:
        raise


def screen() -> Console:
    """Returns a console on stdout: as wide as the terminal, or 120 columns for a file."""
    console = _Screen(highlight=False)
    if not console.is_terminal:
        console.width = _LOG_WIDTH
    return console


def size_text(size_bytes: int) -> str:
    """Returns a size in its largest binary unit, e.g. "1.5 MiB"."""
    for unit, factor in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if size_bytes >= factor:
            return f"{size_bytes / factor:.4g} {unit}"
    return f"{size_bytes} B"
