"""Retry rules: where and when a failed request is sent again."""

from __future__ import annotations

import threading
import time
from collections.abc import Awaitable, Callable
from enum import Enum, auto
from typing import TypeVar

import grpc

from mse_grad.reasons import Reason
from mse_grad_client.chance import uniform
from mse_grad_client.errors import MseGradError, Unavailable
from mse_grad_client.events import Events
from mse_grad_client.options import RetryOptions

__all__ = ["Awaited", "Replaced", "Retries", "RetryBudget", "Step", "StreamStale", "Wake", "with_retries"]

Value = TypeVar("Value")


class Replaced(Unavailable):
    """This side closed the connection under the request, which goes over the next one at once."""


class Awaited(Replaced):
    """The request was not sent: no server, or no open stream, took it. One does now, and it goes there at once."""


class StreamStale(Unavailable):
    """The stream of the request, opened for an earlier request, accepts no further ones; a new stream may.

    Such a stream may have ended long ago, unnoticed because no caller waited for an answer. Callers of the SDK see the
    plain error; see `plain`.
    """

    @classmethod
    def of(cls, error: MseGradError) -> StreamStale:
        """Returns the same error with this type."""
        stale = cls(error.message)
        stale.__dict__.update(error.__dict__)
        return stale

    def plain(self) -> Unavailable:
        """Returns the same error for callers of the SDK."""
        error = Unavailable(self.message)
        error.__dict__.update(self.__dict__)
        return error


class Step(Enum):
    """The next step of a request that has failed."""

    GIVE_UP = auto()
    """Raise the error."""
    BY_STREAM = auto()
    """Send it again at once over the stream of the RPC, not through shared memory or packets."""
    AT_ONCE = auto()
    """Send it again at once: on a new stream, to another worker, or over the connection that replaces a closed one."""
    WAIT = auto()
    """Send it again after a pause."""


class Wake(Enum):
    """The end of a pause."""

    TIME = auto()
    """Its time is over."""
    ROOM = auto()
    """Other requests of the client were answered, so the busy server may have room; see Room."""
    CLOSED = auto()
    """The client was closed."""


class RetryBudget:
    """Token bucket that bounds how often one client sends requests again, against retry storms. Thread-safe.

    It holds the tokens of one second, so that the first failures of many callers do not wait. Source: gRFC A6.
    """

    def __init__(self, per_s: float, *, now: Callable[[], float] = time.monotonic) -> None:
        self._interval_s = 1 / per_s
        self._now = now
        self._lock = threading.Lock()
        # Time at which the last token taken so far is available; each token adds one interval.
        self._empty_until_s = 0.0

    def take(self) -> float:
        """Takes a token and returns the seconds until it is available."""
        with self._lock:
            now_s = self._now()
            self._empty_until_s = max(self._empty_until_s, now_s - 1.0) + self._interval_s
            return max(0.0, self._empty_until_s - now_s)

    def put_back(self) -> None:
        """Returns a token that was taken and is not needed."""
        with self._lock:
            self._empty_until_s -= self._interval_s


class Retries:
    """Decides after each failure of one request whether, where and when to send it again.

    The order of its steps: at once if the connection was replaced; over the stream if shared memory or packets failed;
    at once, once per attempt, if the stream was stale or another worker is available; else after a pause, if the error
    says that another attempt can help. Each pause is the time that the server asked for, plus a random part of a bound
    that doubles; it ends early if the server was busy and other requests of the client have made room. There is no
    pause if it would leave no time for another attempt.

    Args:
        options: Bounds of attempts and pauses.
        budget: The client's token bucket.
        deadline: Deadline of the caller on the clock of time.monotonic; None for `options.patience_s` after the first
            failure.
        pause: Waits as many seconds as it is told, or until a busy server may have room, if the second argument is
            True.
        now: Clock of `deadline`.
        events: Receives each retry.
    """

    __slots__ = (
        "_attempts",
        "_bound_s",
        "_budget",
        "_deadline",
        "_events",
        "_has_moved",
        "_now",
        "_options",
        "_pause",
        "step",
    )

    def __init__(
        self,
        options: RetryOptions,
        budget: RetryBudget,
        *,
        deadline: float | None,
        pause: Callable[[float, bool], Awaitable[Wake]],
        now: Callable[[], float] = time.monotonic,
        events: Events | None = None,
    ) -> None:
        self.step: Step | None = None
        self._events = events
        self._options = options
        self._budget = budget
        self._deadline = deadline
        self._pause = pause
        self._now = now
        self._attempts = 1
        self._bound_s = options.initial_backoff_s
        self._has_moved = False

    async def should_retry(self, error: MseGradError, *, falls_back: bool = False, other_worker: bool = False) -> bool:
        """Decides what follows `error`, and pauses if that is due.

        Args:
            error: The failure of the last try.
            falls_back: Whether the stream of the RPC may still compute the gradient.
            other_worker: Whether the worker that failed was left out, so that the next try goes elsewhere.

        Returns:
            Whether to send the request again now, by `step`; False: the caller raises the error.
        """
        self.step, pause_s = self._decide(error, falls_back, other_worker)
        if self._events is not None and not (self.step is Step.GIVE_UP or isinstance(error, Awaited)):
            self._events.retries(error, step=self.step.name.lower(), pause_s=pause_s)
        if self.step is Step.WAIT:
            bound_s, self._bound_s = self._bound_s, min(2 * self._bound_s, self._options.max_backoff_s)
            wake = await self._pause(pause_s, error.reason in (Reason.SERVER_BUSY, Reason.QUOTA_EXCEEDED))
            if wake is Wake.ROOM:
                # The answers of other requests bound these retries.
                self._budget.put_back()
                self._bound_s = bound_s
            elif wake is Wake.CLOSED:
                self.step = Step.GIVE_UP
        return self.step is not Step.GIVE_UP

    def _decide(self, error: MseGradError, falls_back: bool, other_worker: bool) -> tuple[Step, float]:
        if isinstance(error, Replaced):
            return Step.AT_ONCE, 0.0
        if falls_back:
            return Step.BY_STREAM, 0.0
        options = self._options
        may_move = isinstance(error, StreamStale) or (other_worker and options.max_attempts != 1)
        if may_move and not self._has_moved:
            self._has_moved = True
            return Step.AT_ONCE, 0.0
        if self._attempts == options.max_attempts or not _can_help(error):
            return Step.GIVE_UP, 0.0
        now_s = self._now()
        if self._deadline is None:
            self._deadline = now_s + options.patience_s
        pause_s = max(error.retry_delay_s or 0.0, self._budget.take())
        left_s = self._deadline - now_s - pause_s
        if left_s < options.initial_backoff_s:
            self._budget.put_back()  # otherwise a server that fails calls at once leaves no retry to later ones
            return Step.GIVE_UP, 0.0
        # The last attempts share the time that is left, so that a server that comes back late is still found.
        pause_s += min(uniform(self._bound_s / 2, self._bound_s), left_s / 2)
        self._attempts += 1
        self._has_moved = False
        return Step.WAIT, pause_s


async def with_retries(attempt: Callable[[], Awaitable[Value]], retries: Retries) -> Value:
    """Calls `attempt`, which sends a request once, until it succeeds or `retries` gives up; returns its result."""
    while True:
        try:
            return await attempt()
        except MseGradError as error:
            if not await retries.should_retry(error):
                raise


def _can_help(error: MseGradError) -> bool:
    """Whether another attempt may succeed."""
    if error.reason is not None:
        return error.reason.retryable
    return error.code is grpc.StatusCode.UNAVAILABLE or error.retry_delay_s is not None
