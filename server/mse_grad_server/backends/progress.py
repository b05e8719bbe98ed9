"""Progress of a request: the phase that it is in, and whether anybody still waits for it."""

from __future__ import annotations

from enum import StrEnum
from typing import Protocol

from mse_grad_server.errors import Cancelled, DeadlineExceeded

__all__ = ["Phase", "Progress", "late", "unwanted"]


class Phase(StrEnum):
    """Phases in which the time of a request can run out; the value is the text in errors."""

    UPLOAD = "upload"
    """Its operands are still to come."""
    QUEUED = "queued"
    """It waits for admission, for a thread, or for a slot of the device."""
    ENCODE = "encode"
    """The answer is laid out, into which the gradient is then computed."""
    COPY_IN = "copy-in"
    """Operands are copied to pinned memory of the device, or wait there for their launch."""
    KERNEL = "kernel"
    """The gradient is computed; on an NPU with the device's own copies, of which the host sees only the end."""
    COPY_OUT = "copy-out"
    """The gradient is copied from pinned memory to its place."""


class Progress(Protocol):
    """A request, as far as the code that computes knows it. One thread at a time writes `phase`; any thread may read.

    Attributes:
        deadline_s: Time when the caller stops waiting, in the time of `time.monotonic`; infinite without a deadline.
        is_open: Whether the caller still waits.
        phase: The phase that it is in.
    """

    deadline_s: float
    is_open: bool
    phase: Phase


def late(phase: Phase, more: str = "") -> DeadlineExceeded:
    """Returns the error of a request whose time ran out in a phase.

    Args:
        phase: The phase.
        more: What else the caller should know; "" for nothing.
    """
    text = f"the time that the caller gave ran out in the phase {phase}"
    return DeadlineExceeded(f"{text}; {more}" if more else text, phase=phase)


def unwanted() -> Cancelled:
    """Returns the error of a request for which nobody waits any longer."""
    return Cancelled("nobody waits for the gradient any longer")
