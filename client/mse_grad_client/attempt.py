"""Sides of an attempt at a request, as the request sees them: its holder, and the task that waits for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from mse_grad_client.errors import MseGradError

__all__ = ["Holder", "Readable", "Task"]


class Holder(Protocol):
    """An attempt at a request, as the request sees it."""

    def revoke(self) -> None:
        """Ensures that nothing is written to the caller's gradient from now on; a second call does nothing."""

    def fail(self, error: MseGradError) -> None:
        """Ends the attempt with `error`, unless it has ended; any thread may call it."""


class Readable(Protocol):
    """A stream that a loop can read, and write.

    Attributes:
        is_read_by_loop: Whether a loop reads it.
    """

    is_read_by_loop: bool

    def wake(self) -> None:
        """Has queued messages sent, without waiting."""

    @property
    def is_sending(self) -> bool:
        """Whether a message could not be sent yet: `wake` when the descriptor takes more, or a read, sends it."""

    @property
    def has_ended(self) -> bool:
        """Whether no further answers come."""

    @property
    def descriptor(self) -> int | None:
        """A descriptor that is readable when answers have come; None if only a thread can wait for them."""

    def read_in_thread(self) -> None:
        """Has the stream's own thread read, and send, until no answers are to come."""

    def read(self, is_enough: Callable[[], bool]) -> bool:
        """Reads answers in this thread until `is_enough()`; returns False if another thread reads now."""


class Task(Protocol):
    """The task of an event loop that waits for a request. All but `wake` run in the loop's thread."""

    def wake(self) -> None:
        """Lets the task look again whether it may go on; called by any thread."""

    def send_soon(self, stream: Readable) -> None:
        """Wakes `stream` once the tasks that are ready now have queued their requests, which then travel together."""

    def reads(self, stream: Readable) -> bool:
        """Has the loop read the answers on `stream`; returns False if it cannot."""

    async def until(self, is_over: Callable[[], bool], deadline: float | None) -> bool:
        """Suspends the task until `is_over()`, at most until `deadline` on the clock of time.monotonic.

        Returns:
            Whether it is over.
        """
