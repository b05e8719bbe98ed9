"""Finding of the doctor: one line of its report."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

__all__ = ["Finding", "Level", "error", "ok", "warning"]


class Level(Enum):
    """Severity of a finding."""

    OK = "ok"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True)
class Finding:
    """Result of one check.

    Attributes:
        subject: The checked item, e.g. "driver".
        level: Severity.
        text: The result.
        advice: What to do; "" if the check passed.
    """

    subject: str
    level: Level
    text: str
    advice: str = ""


def ok(subject: str, text: str) -> Finding:
    """Returns a finding of a passed check."""
    return Finding(subject, Level.OK, text)


def warning(subject: str, text: str, advice: str) -> Finding:
    """Returns a finding of a possible problem."""
    return Finding(subject, Level.WARNING, text, advice)


def error(subject: str, text: str, advice: str) -> Finding:
    """Returns a finding of a problem that keeps everything from working."""
    return Finding(subject, Level.ERROR, text, advice)
