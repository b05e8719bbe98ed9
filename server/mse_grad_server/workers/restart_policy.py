"""Restart policy of a worker: exponential back-off, and the exit codes that end the restarts."""

from __future__ import annotations

from mse_grad_server.process.exits import ExitCode

__all__ = ["RestartPolicy"]

# Pause before the first restart, which doubles with each failure in a row, and the longest pause.
_FIRST_S = 0.5
_LONGEST_S = 60.0
# A process that was ready for this long ends the row of failures.
_STABLE_S = 60.0
# Exit codes whose cause a restart cannot remove.
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


class RestartPolicy:
    """Restarts of one worker; pure, the caller passes the time.

    Args:
        limit: Failures in a row that are restarted; one more is the last.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._failures = 0
        self._was_ever_ready = False
        self._ready_since_s: float | None = None

    def ready(self, now_s: float) -> None:
        """Notes that the process takes requests; a second call for the same process does nothing."""
        self._was_ever_ready = True
        if self._ready_since_s is None:
            self._ready_since_s = now_s

    def ended(self, exit_code: int, now_s: float) -> float | None:
        """Returns the seconds until the next start, or None if the worker is not started again.

        A process that was ready and then ended with 0 was asked to end, so it is replaced at once. If the worker was
        never ready, an exit code that another start would repeat is final. After it was ready once, the same code is a
        failure like others: a device that is being reset is missing for a while.

        Args:
            exit_code: Exit code of the process; negative for a signal.
            now_s: Current time.
        """
        since_s, self._ready_since_s = self._ready_since_s, None
        if since_s is not None and now_s - since_s >= _STABLE_S:
            self._failures = 0
        if since_s is not None and exit_code == ExitCode.OK:
            return 0.0
        if exit_code in _FINAL and not self._was_ever_ready:
            return None
        self._failures += 1
        if self._failures > self._limit:
            return None
        return min(_LONGEST_S, _FIRST_S * 2.0 ** (self._failures - 1))
