from __future__ import annotations

import io
import json
from typing import Any

from mse_grad_server.process.log import open_log
from mse_grad_server.process.log_limit import LogLimit
from support.server.fakes import FakeClock


class Limited:
    """A log with a limit and its own clock."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.lost = 0
        self.limit = LogLimit(self.lose, now=self.clock.now)
        self._stream = io.StringIO()
        self.log = open_log("info", "json", stream=self._stream, limit=self.limit)

    def lose(self) -> None:
        self.lost += 1

    def events(self) -> list[dict[str, Any]]:
        """Returns the events since the last call."""
        lines = self._stream.getvalue().splitlines()
        self._stream.seek(0)
        self._stream.truncate()
        return [json.loads(line) for line in lines]


def test_only_the_first_lines_of_a_reason_are_written() -> None:
    limited = Limited()
    for _ in range(60):
        limited.log.info("call_failed", reason="TOKEN_MISSING")
    limited.log.info("call_failed", reason="TOKEN_UNKNOWN")
    limited.log.info("signal")
    assert [event.get("reason") for event in limited.events()] == ["TOKEN_MISSING"] * 50 + ["TOKEN_UNKNOWN", None]
    assert limited.lost == 10


def test_after_ten_seconds_the_rest_is_reported_and_lines_are_written_again() -> None:
    limited = Limited()
    for _ in range(60):
        limited.log.info("call_failed", reason="TOKEN_MISSING")
    limited.events()
    limited.clock.advance(9.9)
    limited.limit.report(limited.log)
    assert limited.events() == []
    limited.clock.advance(0.1)
    limited.limit.report(limited.log)
    (report,) = limited.events()
    assert (report["event"], report["level"], report["lines"]) == ("lines_left_out", "warning", 10)
    assert (report["of_event"], report["reason"]) == ("call_failed", "TOKEN_MISSING")
    limited.limit.report(limited.log)
    assert limited.events() == []
    limited.log.info("call_failed", reason="TOKEN_MISSING")
    assert len(limited.events()) == 1


def test_the_last_report_does_not_wait_for_the_ten_seconds() -> None:
    limited = Limited()
    for _ in range(51):
        limited.log.info("call_failed", reason="TOKEN_MISSING")
    limited.events()
    limited.limit.report(limited.log, is_last=True)
    assert [event["lines"] for event in limited.events()] == [1]
