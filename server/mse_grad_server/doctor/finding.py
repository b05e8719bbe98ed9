"""Finding of the doctor: one line of its report."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from mse_grad_server.process.exits import StartError

__all__ = ["Finding", "Level", "error", "ok", "refusal", "warning"]


class Level(Enum):
    """Severity of a finding."""

    OK = "ok"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True)
class Finding:
    """A fact about one subject.

    Attributes:
        subject: The thing that was checked, e.g. "driver".
        level: Severity.
        text: The fact.
        advice: How to correct it; "" if all is well.
    """

    subject: str
    level: Level
    text: str
    advice: str = ""


def ok(subject: str, text: str) -> Finding:
    """Returns a finding that needs no action."""
    return Finding(subject, Level.OK, text)


def warning(subject: str, text: str, advice: str) -> Finding:
    """Returns a finding that may become a problem."""
    return Finding(subject, Level.WARNING, text, advice)


def error(subject: str, text: str, advice: str) -> Finding:
    """Returns a finding that keeps the server from serving."""
    return Finding(subject, Level.ERROR, text, advice)


def refusal(subject: str, why: StartError) -> Finding:
    """Returns a finding for the error that the server would raise at its start."""
    return error(
        subject,
        str(why),
        f"here the server exits with code {int(why.exit_code)}: see docs/ascend.md, When a step fails",
    )
