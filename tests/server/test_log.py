from __future__ import annotations

import io
import json
import logging
import os

import numpy as np
import pytest

from mse_grad_server.log import forward_library_logs, open_log
from support.in_process import chunk, header, serving


def test_an_event_is_one_line_of_json_with_what_tells_most_first() -> None:
    stream = io.StringIO()
    open_log("info", "json", stream=stream).info("ready", listen="127.0.0.1:1", device="avx512")
    (line,) = stream.getvalue().splitlines()
    event = json.loads(line)
    assert list(event) == ["timestamp", "level", "event", "listen", "device"]
    assert (event["level"], event["event"]) == ("info", "ready")
    assert event["timestamp"].endswith("Z")


@pytest.mark.parametrize(("level", "count"), [("debug", 4), ("info", 3), ("warning", 2), ("error", 1)])
def test_events_below_the_level_are_left_out(level: str, count: int) -> None:
    stream = io.StringIO()
    log = open_log(level, "json", stream=stream)
    for name in ("debug", "info", "warning", "error"):
        getattr(log, name)("something")
    assert len(stream.getvalue().splitlines()) == count


def test_a_log_that_nobody_reads_any_more_fails_nobody() -> None:
    reader, writer = os.pipe()
    with open(writer, "w", buffering=1) as stream:
        log = open_log("info", "json", stream=stream)
        log.info("read")
        os.close(reader)
        log.info("not read")
        log.error("nor this", text="x" * 100_000)
        reader, other = os.pipe()
        os.dup2(other, writer)  # so that what is left can be written, and the stream closed
        os.close(other)
    os.close(reader)


@pytest.mark.parametrize("log_format", ["json", "text"])
def test_a_traceback_shows_no_values_of_variables(log_format: str) -> None:
    stream = io.StringIO()
    log = open_log("info", log_format, stream=stream)  # type: ignore[arg-type]
    operand = np.array([1234.5])
    try:
        operand.reshape(7)
    except ValueError as error:
        log.error("request_failed", exc_info=error)
    assert "reshape" in stream.getvalue()
    assert "1234.5" not in stream.getvalue()


@pytest.mark.parametrize(("level", "count"), [("debug", 1), ("info", 0)])
async def test_every_request_is_a_line_at_debug_alone(level: str, count: int) -> None:
    async with serving(log_level=level) as server:
        stream = await server.stream()
        await stream.send([header(1, (1,), request_id="mine")], [chunk(1, 0, [1.0])])
        await stream.receive()
        lines = server.events("request_answered")
        assert [line["request_id"] for line in lines] == ["mine"] * count


def test_warnings_of_libraries_become_events() -> None:
    stream = io.StringIO()
    handler = forward_library_logs(open_log("info", "json", stream=stream))
    try:
        logging.getLogger("grpc._cython").warning("%d calls lost", 3)
        logging.getLogger("grpc._cython").info("not this")
    finally:
        logging.getLogger().removeHandler(handler)
    (line,) = stream.getvalue().splitlines()
    event = json.loads(line)
    assert (event["event"], event["logger"], event["message"]) == ("library", "grpc._cython", "3 calls lost")
