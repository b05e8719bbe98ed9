"""Writer thread for log lines.

Logging only puts the line into a bounded queue. So a pipe without a reader, a full disk or a closed stderr neither
blocks nor fails the caller.

Thread safety: any thread may log, and finalizers too, because the queue has no lock on which they could wait.
"""

from __future__ import annotations

import os
import select
import threading
import time
from collections.abc import Callable
from queue import Empty, SimpleQueue

from prometheus_client import Counter

__all__ = ["LogWriter", "lost_lines_counter"]

# A line has a few hundred bytes, and at most about eight thousand: see log.
_MOST_QUEUED_LINES = 1024
_TICK_S = 1.0
# Time to write the last lines of the process; after it they are lost.
_LAST_LINES_S = 1.0


def lost_lines_counter() -> Counter:
    """Returns the counter of lost log lines; it is in no registry yet."""
    lost = Counter(
        "mse_grad_log_lost_lines_total",
        "Log lines that were not written: rate_limit, too many alike; backlog, the reader is too slow; write_error, "
        "stderr is unwritable.",
        ["reason"],
        registry=None,
    )
    for reason in ("rate_limit", "backlog", "write_error"):
        lost.labels(reason)
    return lost


class LogWriter:
    """A text stream that a thread writes to a descriptor; opened once, closed once.

    Attributes:
        lost: Counter of lines that were not written.
        on_tick: Called by the thread about once a second, for lines that are due at a time.
    """

    def __init__(self, descriptor: int, lost: Counter) -> None:
        self.lost = lost
        self._backlog, self._write_error = lost.labels("backlog"), lost.labels("write_error")
        self.on_tick: Callable[[], None] = lambda: None
        self._descriptor = descriptor
        self._lines: SimpleQueue[bytes | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._is_cut = False
        self._is_closed = False

    def open(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def isatty(self) -> bool:
        """Whether the descriptor is a terminal."""
        return os.isatty(self._descriptor)

    def write(self, text: str) -> int:
        """Enqueues one or more lines; never blocks and never fails."""
        if self._is_closed or self._lines.qsize() >= _MOST_QUEUED_LINES:
            self._backlog.inc()
        else:
            self._lines.put(text.encode(errors="backslashreplace"))
        return len(text)

    def close(self, timeout_s: float = _LAST_LINES_S) -> None:
        """Waits up to `timeout_s` for the last lines; later lines are lost. A second call does nothing."""
        if not self._is_closed:
            self._is_closed = True
            self._lines.put(None)
        self._thread.join(timeout_s)

    def _run(self) -> None:
        next_tick_s = time.monotonic() + _TICK_S
        while True:
            try:
                line = self._lines.get(timeout=max(0.0, next_tick_s - time.monotonic()))
            except Empty:
                self.on_tick()
                next_tick_s = time.monotonic() + _TICK_S
                continue
            if line is None:
                return
            self._write(line)

    def _write(self, line: bytes) -> None:
        # A full disk can cut a line in half; then the next one starts on a new line.
        left = memoryview(b"\n" + line if self._is_cut else line)
        whole_bytes = len(left)
        try:
            while left:
                left = left[self._write_some(left) :]
            self._is_cut = False
        except OSError:
            self._write_error.inc()
            self._is_cut |= len(left) < whole_bytes

    def _write_some(self, piece: memoryview) -> int:
        try:
            return os.write(self._descriptor, piece)
        except BlockingIOError:  # another process made the shared descriptor non-blocking
            poll = select.poll()
            poll.register(self._descriptor, select.POLLOUT)
            poll.poll()
            return 0
