"""One line of the doctor's report."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

__all__ = ["Finding", "Level", "error", "ok", "warning"]


class Level(Enum):
    """How bad it is."""

    OK = "ok"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True)
class Finding:
    """What was found about one subject.

    Attributes:
        subject: What was looked at, e.g. "driver".
        level: How bad it is.
        text: What was found.
        advice: The way out; "" where all is well.
    """

    subject: str
    level: Level
    text: str
    advice: str = ""


def ok(subject: str, text: str) -> Finding:
    """Returns a finding that asks for nothing."""
    return Finding(subject, Level.OK, text)


def warning(subject: str, text: str, advice: str) -> Finding:
    """Returns a finding that may become a problem."""
    return Finding(subject, Level.WARNING, text, advice)


def error(subject: str, text: str, advice: str) -> Finding:
    """Returns a finding without whose way out nothing works."""
    return Finding(subject, Level.ERROR, text, advice)
