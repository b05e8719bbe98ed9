"""When a request that failed is sent again, and after how long."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from typing import TypeVar

import grpc

from mse_grad_client.errors import MseGradError
from mse_grad_client.options import RetryOptions

__all__ = ["with_retries"]

Value = TypeVar("Value")


def with_retries(
    attempt: Callable[[], Value], *, options: RetryOptions, deadline: float | None, closed: threading.Event
) -> Value:
    """Returns what `attempt` returns, trying again while its error says that another try can help.

    Waits a random part of an exponentially growing bound, or what the server asked for where that is longer. A wait
    that would pass `deadline` (of time.monotonic) is not begun, nor one after `closed` is set: the error is raised.
    """
    bound_s = options.initial_backoff_s
    for attempts in range(1, options.max_attempts + 1):
        try:
            return attempt()
        except MseGradError as error:
            wait_s = max(random.uniform(bound_s / 2, bound_s), error.retry_delay_s or 0.0)
            late = deadline is not None and time.monotonic() + wait_s >= deadline
            if attempts == options.max_attempts or late or not _helps(error) or closed.wait(wait_s):
                raise
        bound_s = min(2 * bound_s, options.max_backoff_s)
    raise AssertionError("max_attempts is at least 1")


def _helps(error: MseGradError) -> bool:
    if error.reason is not None:
        return error.reason.retryable
    return error.code is grpc.StatusCode.UNAVAILABLE or error.retry_delay_s is not None
