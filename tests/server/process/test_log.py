from __future__ import annotations

import io
import json
import logging
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from prometheus_client import Counter

from mse_grad_server.process.log import LogFormat, log_to_stderr, open_log, printable
from support.server.raw_stream import chunk, header
from support.server.server_in_loop import serving


def test_an_event_is_one_line_of_json_with_the_main_keys_first() -> None:
    stream = io.StringIO()
    open_log("info", "json", stream=stream).info("ready", listen="127.0.0.1:1", device="avx512")
    (line,) = stream.getvalue().splitlines()
    event = json.loads(line)
    assert list(event) == ["timestamp", "level", "event", "listen", "device"]
    assert (event["level"], event["event"]) == ("info", "ready")
    assert event["timestamp"].endswith("Z")


@pytest.mark.parametrize(("level", "count"), [("debug", 4), ("info", 3), ("warning", 2), ("error", 1)])
def test_events_below_the_level_are_dropped(level: str, count: int) -> None:
    stream = io.StringIO()
    log = open_log(level, "json", stream=stream)
    for name in ("debug", "info", "warning", "error"):
        getattr(log, name)("something")
    assert len(stream.getvalue().splitlines()) == count


@pytest.mark.parametrize("log_format", ["json", "text"])
def test_a_traceback_shows_no_values_of_variables(log_format: LogFormat) -> None:
    stream = io.StringIO()
    log = open_log("info", log_format, stream=stream)
    operand = np.array([1234.5])
    try:
        operand.reshape(7)
    except ValueError as error:
        log.error("request_failed", exc_info=error)
    assert "reshape" in stream.getvalue()
    assert "1234.5" not in stream.getvalue()


@pytest.mark.parametrize(("level", "count"), [("debug", 1), ("info", 0)])
async def test_only_debug_has_a_line_for_every_request(level: str, count: int) -> None:
    async with serving(log_level=level) as server:
        stream = await server.stream()
        await stream.send([header(1, (1,), request_id="mine")], [chunk(1, 0, [1.0])])
        await stream.receive()
        lines = server.events("request_answered")
        assert [line["request_id"] for line in lines] == ["mine"] * count


def logged_to_stderr(capfd: pytest.CaptureFixture[str], act: Callable[[], None]) -> list[dict[str, Any]]:
    """Returns the events that a process logs while it runs `act`."""
    with log_to_stderr("info", "json", worker="cpu:0"):
        act()
    return [json.loads(line) for line in capfd.readouterr().err.splitlines()]


def test_warnings_of_libraries_become_events(capfd: pytest.CaptureFixture[str]) -> None:
    def act() -> None:
        logging.getLogger("grpc._cython").warning("%d calls lost", 3)
        logging.getLogger("grpc._cython").info("not this")

    (event,) = logged_to_stderr(capfd, act)
    assert (event["event"], event["logger"], event["message"]) == ("library", "grpc._cython", "3 calls lost")
    assert event["worker"] == "cpu:0"


def test_lines_that_libraries_print_on_stderr_become_events(capfd: pytest.CaptureFixture[str]) -> None:
    def act() -> None:
        print("one\ntwo", file=sys.stderr)
        print("x" * 100_000, end="", file=sys.stderr)

    stderr = sys.stderr
    first, second, long = logged_to_stderr(capfd, act)
    assert sys.stderr is stderr
    assert [(event["event"], event["message"]) for event in (first, second)] == [("printed", "one"), ("printed", "two")]
    assert len(long["message"]) < 1100


def test_a_log_record_whose_arguments_do_not_fit_is_still_logged(capfd: pytest.CaptureFixture[str]) -> None:
    record = logging.makeLogRecord({"msg": "%d calls lost", "args": ("x",), "levelno": logging.WARNING})
    (event,) = logged_to_stderr(capfd, lambda: logging.getLogger().handlers[-1].emit(record))
    assert event["message"] == "%d calls lost"


def test_bytes_in_log_records_of_libraries_are_not_shown(capfd: pytest.CaptureFixture[str]) -> None:
    (event,) = logged_to_stderr(
        capfd, lambda: logging.getLogger("grpc").error("Invalid encoding on %s", b"Bearer \xff")
    )
    assert event["message"] == "Invalid encoding on 8 bytes"


def test_dropped_lines_are_counted_and_reported_at_the_end(capfd: pytest.CaptureFixture[str]) -> None:
    with log_to_stderr("info", "json") as (log, writer):
        for _ in range(1000):
            log.info("call_failed", reason="TOKEN_MISSING")
            log.info("call_failed", reason="TOKEN_UNKNOWN")
    events = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    assert [event["event"] for event in events] == ["call_failed"] * 100 + ["lines_left_out"] * 2
    assert [(event["lines"], event["of_event"], event["reason"]) for event in events[-2:]] == [
        (950, "call_failed", "TOKEN_MISSING"),
        (950, "call_failed", "TOKEN_UNKNOWN"),
    ]
    assert lost(writer.lost) == {"rate_limit": 1900, "backlog": 0, "write_error": 0}


def test_debug_drops_no_line(capfd: pytest.CaptureFixture[str]) -> None:
    with log_to_stderr("debug", "json") as (log, _):
        for _ in range(200):
            log.info("request_failed")
    assert len(capfd.readouterr().err.splitlines()) == 200


def lost(counter: Counter) -> dict[str, float]:
    """Returns the number of lost lines by reason."""
    (family,) = counter.collect()
    return {at.labels["reason"]: at.value for at in family.samples if at.name.endswith("_total")}


@pytest.mark.parametrize("log_format", ["json", "text"])
@pytest.mark.parametrize("hostile", ["\x1b]0;title\x07", "\x9b31m", "a\r\nb", "\u202e", "\udcff", "\x00\x7f"])
def test_text_of_a_peer_is_printable_in_both_formats(log_format: LogFormat, hostile: str) -> None:
    stream = io.StringIO()
    log = open_log("info", log_format, stream=stream)
    try:
        raise ValueError(hostile)
    except ValueError as error:
        log.error("request_failed", message=hostile, method=f"{hostile}/x", exc_info=error)
    stream.getvalue().encode()
    assert [character for character in stream.getvalue() if not character.isprintable() and character != "\n"] == []


@pytest.mark.parametrize("log_format", ["json", "text"])
def test_text_of_a_peer_is_shortened(log_format: LogFormat) -> None:
    stream = io.StringIO()
    log = open_log("info", log_format, stream=stream)
    try:
        raise ValueError("y" * 10**6)
    except ValueError as error:
        log.error("request_failed", message="begin" + "x" * 10**6 + "end", exc_info=error)
    assert len(stream.getvalue()) < 8192
    assert "beginxxx" in stream.getvalue()
    assert "xxxend" in stream.getvalue()
    assert "... 998984 characters ..." in stream.getvalue()


@pytest.mark.parametrize("text", ["authorization: Bearer s3cret", "b'bearer  s3cret'", "Basic s3cret"])
def test_a_token_is_never_shown(text: str) -> None:
    assert "s3cret" not in printable(text)
    assert "s3cret" not in printable(text + "x" * 10_000)
