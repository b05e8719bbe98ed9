"""Notices when the device thread does not come back from a call."""

from __future__ import annotations

import time

__all__ = ["Watch"]


class Watch:
    """What one thread says of itself and others ask. No lock: one word is written and read."""

    def __init__(self, limit_s: float) -> None:
        """Takes how long the thread may be away, in seconds."""
        self.limit_s = limit_s
        self._away_since_s: float | None = None

    def away(self) -> None:
        """The thread is about to call what may not return, or has just come back from such a call."""
        self._away_since_s = time.monotonic()

    def idle(self) -> None:
        """The thread waits for others."""
        self._away_since_s = None

    def is_overdue(self) -> bool:
        """Whether the thread is away for longer than it may."""
        since_s = self._away_since_s
        return since_s is not None and time.monotonic() - since_s > self.limit_s
