"""Timeline of one traced request: the phases that it went through, and when."""

from __future__ import annotations

from typing import Any, NamedTuple

__all__ = ["MOST_PHASES", "Phase", "Timeline"]

MOST_PHASES = 128
"""Most phases that are kept of one request: a large tensor has some for each chunk, or each block of an NPU."""


class Phase(NamedTuple):
    """One phase; times are those of `time.monotonic`."""

    name: str
    began_s: float
    ended_s: float


class Timeline:
    """Phases of one request. Any thread may add one.

    Args:
        parent: The caller's span, as the tracing made it.
        began_s: When the request arrived, in the time of `time.monotonic`.

    Attributes:
        parent: As given.
        began_s: As given.
        phases: The first phases, in the order in which they ended.
        dropped: How many further ones there were.
    """

    __slots__ = ("began_s", "dropped", "parent", "phases")

    def __init__(self, parent: Any, began_s: float) -> None:
        self.parent = parent
        self.began_s = began_s
        self.phases: list[Phase] = []
        self.dropped = 0

    def add_computation(
        self, queued_s: float | None, began_s: float, encoded_s: float, computed_s: float, *, has_kernel: bool
    ) -> None:
        """Adds the phases in which gradients were computed.

        Args:
            queued_s: Time when they began to wait for a thread; None if the event loop computed them.
            began_s: Time when their computation began.
            encoded_s: Time when the answer was laid out.
            computed_s: Time when they were computed.
            has_kernel: Whether computing is one phase, because the backend adds none of its own.
        """
        if queued_s is not None:
            self.add("queue", queued_s, began_s)
        self.add("encode", began_s, encoded_s)
        if has_kernel:
            self.add("kernel", encoded_s, computed_s)

    def add(self, name: str, began_s: float, ended_s: float) -> None:
        """Adds a phase."""
        if len(self.phases) < MOST_PHASES:
            self.phases.append(Phase(name, began_s, ended_s))
        else:
            self.dropped += 1
