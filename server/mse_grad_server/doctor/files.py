"""Readers of files that may not exist."""

from __future__ import annotations

from pathlib import Path

__all__ = ["fields_of", "text_of"]


def text_of(path: Path) -> str:
    """Returns the text of a file; "" if it does not exist or cannot be read."""
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def fields_of(path: Path) -> dict[str, str]:
    """Returns the lines "key=value" of a file, without quotes; none if it does not exist or cannot be read."""
    pairs = (line.partition("=") for line in text_of(path).splitlines() if "=" in line)
    return {key.strip(): value.strip().strip('"') for key, _, value in pairs}
