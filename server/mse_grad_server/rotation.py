"""Files that are exchanged while the server runs."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from structlog.typing import FilteringBoundLogger

from mse_grad_server.exits import CredentialsError

__all__ = ["Rotated"]

T = TypeVar("T")


class Rotated(Generic[T]):
    """What some files hold together. One thread at a time calls `open` and `refresh`; any may look at `value`.

    While they cannot be used, halfway through an exchange for example, what they held before goes on.

    Attributes:
        value: What they held when they could last be used; set by `open`.
    """

    value: T

    def __init__(self, paths: Sequence[str], read: Callable[[], T], log: FilteringBoundLogger) -> None:
        """Takes the files.

        Args:
            paths: Of all of them.
            read: Returns what they hold; raises CredentialsError.
            log: Has a line for each exchange.
        """
        self._paths = [path for path in paths if path]
        self._read = read
        self._log = log
        self._seen: list[object] = []

    def open(self) -> None:
        """Reads them; raises CredentialsError."""
        self._seen = self._state()
        self.value = self._read()

    def refresh(self) -> bool:
        """Reads them again where they changed; returns whether `value` did."""
        state = self._state()
        if state == self._seen:
            return False
        self._seen = state
        try:
            self.value = self._read()
        except CredentialsError as error:
            self._log.error("credentials_kept", message=f"{error}; what was read before stays in use")
            return False
        self._log.info("credentials_read", files=self._paths)
        return True

    def _state(self) -> list[object]:
        return [_state_of(path) for path in self._paths]


def _state_of(path: str) -> tuple[int, ...] | None:
    # Follows links: Kubernetes exchanges a secret by turning one.
    try:
        found = os.stat(path)
    except OSError:
        return None
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
