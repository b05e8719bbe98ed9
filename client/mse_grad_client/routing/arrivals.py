"""Waits of requests for a server that takes them."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable

from mse_grad.reasons import Reason
from mse_grad_client.errors import DeadlineExceeded, MseGradError
from mse_grad_client.interrupts import Latch

__all__ = ["Arrivals"]


class Arrivals:
    """Blocks requests while no server is in use, until one is or discovery has found none. Thread-safe.

    Args:
        want_round: Has discovery ask all servers soon.
    """

    def __init__(self, want_round: Callable[[], None]) -> None:
        self._want_round = want_round
        self._rounds = 0
        self._last_error: MseGradError | None = None
        self._waiting: list[_Waiting] = []
        self._close_error: MseGradError | None = None

    def wait(self, is_there: Callable[[], bool], *, deadline: float | None, target: str) -> None:
        """Blocks until `is_there()`, at most until the end of the next round of discovery.

        Args:
            is_there: Whether a server is in use.
            deadline: Deadline of the caller on the clock of time.monotonic.
            target: The servers, for messages.

        Raises:
            DeadlineExceeded: The time ran out, and no round has ended.
            MseGradError: The round, or the last one, found no server, or the client was closed.
        """
        waiting = _Waiting(self._rounds)
        self._waiting.append(waiting)
        try:
            if self._close_error is not None:
                raise copy.copy(self._close_error)
            if is_there():
                return
            self._want_round()
            if not waiting.over.wait(None if deadline is None else max(0.0, deadline - time.monotonic())):
                raise copy.copy(self._last_error) or DeadlineExceeded(
                    f"none of {target} answered within the time given", reason=Reason.DEADLINE_EXCEEDED
                )
            if waiting.error is not None:
                raise copy.copy(waiting.error)
        finally:
            self._waiting.remove(waiting)

    def begin_round(self) -> None:
        """Discovery begins to ask all servers."""
        self._rounds += 1

    def arrived(self) -> None:
        """A server is in use."""
        self._last_error = None
        for waiting in tuple(self._waiting):
            waiting.over.set()

    def end_round(self, error: MseGradError) -> None:
        """The round has found no server, because of `error`; later waits are for the next one."""
        self._last_error = error
        for waiting in tuple(self._waiting):
            if waiting.since_round < self._rounds:
                waiting.error = error
                waiting.over.set()

    def close(self, error: MseGradError) -> None:
        """Ends every wait, now and later, with `error`."""
        self._close_error = error
        for waiting in tuple(self._waiting):
            waiting.error = error
            waiting.over.set()


class _Waiting:
    """One wait.

    Attributes:
        since_round: The number of rounds that had begun.
        error: Why it ends without a server; None if there is one.
        over: Set at its end.
    """

    def __init__(self, since_round: int) -> None:
        self.since_round = since_round
        self.error: MseGradError | None = None
        self.over = Latch()
