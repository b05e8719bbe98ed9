"""What the threads of requests hand to the device thread."""

from __future__ import annotations

import threading
from collections import deque

from mse_grad_server.backends.ascend.jobs import Job, Outcome

__all__ = ["Inbox"]


class Inbox:
    """Jobs in the order in which they came. Any number of threads put, one takes.

    Attributes:
        is_closing: Whether the device thread is to end once nothing is left.
    """

    def __init__(self) -> None:
        self.is_closing = False
        self._changed = threading.Condition()
        self._jobs: deque[Job] = deque()
        self._turned_back: tuple[Outcome, Exception | None] | None = None

    def put(self, job: Job) -> None:
        """Appends a job, or ends it where jobs are turned back."""
        with self._changed:
            if self._turned_back is None:
                self._jobs.append(job)
                self._changed.notify()
                return
            outcome, error = self._turned_back
        job.end(outcome, error)

    def take(self, timeout_s: float | None) -> list[Job]:
        """Returns every job, after waiting for one; none where none came within the time, or the end is near."""
        with self._changed:
            if not self._jobs and not self.is_closing and timeout_s != 0:
                self._changed.wait_for(self._has_news, timeout_s)
            jobs = list(self._jobs)
            self._jobs.clear()
            return jobs

    def turn_back(self, outcome: Outcome, error: Exception | None = None) -> None:
        """Ends every job that is here or comes, until it is opened again."""
        with self._changed:
            self._turned_back = (outcome, error)
            jobs = list(self._jobs)
            self._jobs.clear()
        for job in jobs:
            job.end(outcome, error)

    def open(self) -> None:
        """Takes jobs from now on."""
        with self._changed:
            self._turned_back = None

    def close(self) -> None:
        """Tells the device thread to end."""
        with self._changed:
            self.is_closing = True
            self._changed.notify()

    def rest(self, seconds: float) -> None:
        """Waits, jobs or not, unless it closes."""
        with self._changed:
            self._changed.wait_for(lambda: self.is_closing, seconds)

    def _has_news(self) -> bool:
        return bool(self._jobs) or self.is_closing
