"""Waits of requests for a server that takes them."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from mse_grad.reasons import Reason
from mse_grad_client.errors import DeadlineExceeded, MseGradError
from mse_grad_client.interrupts import Latch

__all__ = ["Arrivals", "Waiting"]


class Arrivals:
    """Blocks requests while no server is in use, until one is or discovery has found none. Thread-safe.

    Args:
        want_round: Has discovery ask all servers soon.
    """

    def __init__(self, want_round: Callable[[], None]) -> None:
        self._want_round = want_round
        self._rounds = 0
        self._last_error: MseGradError | None = None
        self._waiting: list[Waiting] = []
        self._close_error: MseGradError | None = None

    def wait(self, is_there: Callable[[], bool], *, deadline: float | None, target: str) -> None:
        """Blocks until `is_there()`, at most until the end of the next round of discovery.

        Args:
            is_there: Whether a server is in use.
            deadline: Deadline of the caller on the clock of time.monotonic.
            target: The servers, for error texts.

        Raises:
            DeadlineExceeded: The time ran out, and no round has ended.
            MseGradError: The round, or the last one, found no server, or the client was closed.
        """
        with self.waiting(is_there, target=target) as waiting:
            waiting.end(waiting.over.wait(None if deadline is None else max(0.0, deadline - time.monotonic())))

    @contextmanager
    def waiting(self, is_there: Callable[[], bool], *, target: str) -> Iterator[Waiting]:
        """Makes a wait as `wait` does, for a caller that waits for its `over` and then calls its `end`."""
        waiting = Waiting(self._rounds, target)
        self._waiting.append(waiting)
        try:
            if self._close_error is not None:
                raise copy.copy(self._close_error)
            if is_there():
                waiting.over.set()
            else:
                waiting.last_error = self._last_error
                self._want_round()
            yield waiting
        finally:
            self._waiting.remove(waiting)

    def begin_round(self) -> None:
        """Discovery begins to ask all servers."""
        self._rounds += 1

    def arrived(self) -> None:
        """A server is in use."""
        self._last_error = None
        for waiting in list(self._waiting):
            waiting.over.set()

    def end_round(self, error: MseGradError) -> None:
        """The round has found no server, because of `error`; later waits are for the next one."""
        self._last_error = error
        for waiting in list(self._waiting):
            waiting.last_error = error
            if waiting.since_round < self._rounds:
                waiting.error = error
                waiting.over.set()

    def close(self, error: MseGradError) -> None:
        """Ends every wait, now and later, with `error`."""
        self._close_error = error
        for waiting in list(self._waiting):
            waiting.error = error
            waiting.over.set()


class Waiting:
    """One wait.

    Args:
        since_round: The number of rounds that had begun.
        target: The servers, for error texts.

    Attributes:
        since_round: As given.
        last_error: What the last round found, if that was no server.
        error: Why it ends without a server; None if there is one.
        over: Set at its end.
    """

    def __init__(self, since_round: int, target: str) -> None:
        self.since_round = since_round
        self.last_error: MseGradError | None = None
        self.error: MseGradError | None = None
        self.over = Latch()
        self._target = target

    def end(self, is_over: bool) -> None:
        """Raises the error of the wait, if it has one; `is_over`: whether it ended in time."""
        error = self.error if is_over else self.last_error
        if error is not None:
            raise copy.copy(error)
        if not is_over:
            raise DeadlineExceeded(
                f"none of {self._target} answered within the time given", reason=Reason.DEADLINE_EXCEEDED
            )
