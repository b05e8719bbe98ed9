"""Numbers of devices as a user writes them: "0-7", "0,2,5-7"."""

from __future__ import annotations

import re

__all__ = ["parse_numbers"]

_PART = re.compile(r"\s*([0-9]{1,4})\s*(?:-\s*([0-9]{1,4})\s*)?")
_LARGEST = 1023


def parse_numbers(text: str) -> tuple[int, ...]:
    """Returns the numbers that `text` writes, ascending, none for ""; raises ValueError that says what is allowed."""
    numbers: list[int] = []
    for part in text.split(",") if text.strip() else []:
        match = _PART.fullmatch(part)
        if match is None:
            raise ValueError(f"{part.strip()!r} is no number and no range; write such as '0-7' or '0,2,5-7'")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first or last > _LARGEST:
            raise ValueError(f"{part.strip()!r} is no range of numbers from 0 to {_LARGEST}, the smaller first")
        numbers += range(first, last + 1)
    if len(set(numbers)) < len(numbers):
        raise ValueError("a device is named twice; each has one worker")
    return tuple(sorted(numbers))
