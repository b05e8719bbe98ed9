"""Pulse of an event loop: shows another thread whether the loop still runs."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["Pulse"]


class Pulse:
    """Asks an event loop for a sign of life whenever somebody wants to know; for one thread.

    Args:
        now: Clock, in seconds.
        call_soon: Has the event loop call a function, from any thread.
        hang_s: Time after which a loop that has not answered hangs.
    """

    def __init__(
        self, now: Callable[[], float], call_soon: Callable[[Callable[[], None]], object], *, hang_s: float
    ) -> None:
        self._now = now
        self._call_soon = call_soon
        self._hang_s = hang_s
        self._asked_s: float | None = None

    def silent_s(self) -> float:
        """Returns for how many seconds the loop has not answered if it hangs, else 0."""
        asked_s = self._asked_s
        if asked_s is None:
            self._asked_s = self._now()
            self._call_soon(self._answer)
            return 0.0
        silent_s = self._now() - asked_s
        return silent_s if silent_s >= self._hang_s else 0.0

    def _answer(self) -> None:
        self._asked_s = None
