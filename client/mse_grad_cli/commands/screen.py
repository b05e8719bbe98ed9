"""Console of the subcommands, and sizes as people read them."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from typing_extensions import override

__all__ = ["one_line", "screen", "size_text"]

# Width for files, which have none of their own.
_LOG_WIDTH = 120
# Control characters as people write them. A terminal would obey those that a server has put into a name or an error.
# Some of them change the direction of the text, so that people read other words than there are.
_DIRECTIONS = (0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))
_CONTROLS = {
    **{code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160))},
    **{code: f"\\u{code:04x}" for code in _DIRECTIONS},
}
_CONTROLS_IN_LINES = {code: text for code, text in _CONTROLS.items() if chr(code) not in "\t\n"}


class _Screen(Console):
    def on_broken_pipe(self) -> None:
        raise

    @override
    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for text, style, control in super().render(renderable, options):
            yield Segment(text if control else text.translate(_CONTROLS_IN_LINES), style, control)


def one_line(text: str) -> str:
    """Returns words of a server for a terminal, with control characters and ends of lines written out."""
    return text.translate(_CONTROLS)


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
