"""When a worker that ended is started again, and when no more."""

from __future__ import annotations

from mse_grad_server.exits import ExitCode

__all__ = ["Restarts"]

_FIRST_S = 0.5
_LONGEST_S = 60.0
# After so long in service an end is no longer one in a row.
_WELL_S = 60.0
# What another start of the same thing would only say again.
_FINAL = frozenset(
    {
        ExitCode.SETTINGS,
        ExitCode.LISTEN,
        ExitCode.VERIFICATION,
        ExitCode.RUNTIME_LIBRARY,
        ExitCode.OP_PACKAGE,
        ExitCode.NO_DEVICE,
        ExitCode.PERMISSION,
    }
)


class Restarts:
    """The rule for one worker, without a clock of its own."""

    def __init__(self, limit: int) -> None:
        """Takes how many failures in a row are the last."""
        self._limit = limit
        self._failures = 0
        self._was_ever_ready = False
        self._ready_since_s: float | None = None

    def ready(self, now_s: float) -> None:
        """The worker takes requests; a second call for the same process does nothing."""
        self._was_ever_ready = True
        if self._ready_since_s is None:
            self._ready_since_s = now_s

    def ended(self, exit_code: int, now_s: float) -> float | None:
        """Returns after how many seconds the worker is started again, or None where it is given up.

        A worker that was ready and then ended with 0 was told to by somebody, and is replaced at once. One that never
        was is given up at once where its exit code says that another start would fail likewise; after it has been
        ready, the same code is a failure like others: a device that is being reset is missing for a while.

        Args:
            exit_code: Of the process; negative for a signal.
            now_s: Now.
        """
        since_s, self._ready_since_s = self._ready_since_s, None
        if since_s is not None and now_s - since_s >= _WELL_S:
            self._failures = 0
        if since_s is not None and exit_code == ExitCode.OK:
            return 0.0
        if exit_code in _FINAL and not self._was_ever_ready:
            return None
        self._failures += 1
        if self._failures > self._limit:
            return None
        return min(_LONGEST_S, _FIRST_S * 2.0 ** (self._failures - 1))
