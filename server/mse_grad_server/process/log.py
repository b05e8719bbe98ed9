"""Log of the process: one JSON line per event on stderr.

Tensor data never appears. Text from a peer is cut short and made printable.
"""

from __future__ import annotations

import io
import logging
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Literal, TextIO, cast

import structlog
from structlog.typing import EventDict, FilteringBoundLogger

from mse_grad_server.process.log_limit import LogLimit
from mse_grad_server.process.log_writer import LogWriter, lost_lines_counter
from mse_grad_server.process.standard_streams import STDERR

__all__ = ["LogFormat", "complain", "log_to_stderr", "open_log", "printable"]

LogFormat = Literal["json", "text"]

_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
# Longest string in an event, and longest traceback, which is printed on separate lines.
_MOST_CHARACTERS = 1024
_MOST_TRACEBACK_CHARACTERS = 6 * 1024
# Matches credentials. Only the scheme is logged: the rest is a secret, even if it is mistyped.
_TOKEN = re.compile(r"\b(bearer|basic)\s+\S+", re.IGNORECASE)


def complain(message: str) -> None:
    """Writes the reason why a command failed to stderr, for people; does not wait long for a reader."""
    writer = LogWriter(STDERR, lost_lines_counter())
    writer.open()
    for line in message.splitlines():
        writer.write(f"mse-grad-server: {printable(line)}\n")
    writer.close()


@contextmanager
def log_to_stderr(level: str, log_format: LogFormat, **bound: str) -> Iterator[tuple[FilteringBoundLogger, LogWriter]]:
    """Opens the log of the process, and redirects everything that libraries log or print on stderr into it.

    Args:
        level: "debug", "info", "warning" or "error".
        log_format: "json", or "text" for people.
        bound: Values that every line has.

    Yields:
        The logger, and the writer of its lines. On exit the last lines are written, unless that takes long.
    """
    writer = LogWriter(STDERR, lost_lines_counter())
    # No limit at debug: the user asked for a line for every request.
    limit = None if level == "debug" else LogLimit(writer.lost.labels("rate_limit").inc)
    log = open_log(level, log_format, stream=writer, limit=limit).bind(**bound)
    if limit is not None:
        writer.on_tick = lambda: limit.report(log)
    writer.open()
    forwarder, stderr = _Forwarder(log), sys.stderr
    logging.getLogger().addHandler(forwarder)
    sys.stderr = cast(TextIO, _PrintedLines(log))
    try:
        yield log, writer
    finally:
        sys.stderr = stderr
        logging.getLogger().removeHandler(forwarder)
        if limit is not None:
            limit.report(log, is_last=True)
        writer.close()


def open_log(
    level: str, log_format: LogFormat, *, stream: TextIO | LogWriter, limit: LogLimit | None = None
) -> FilteringBoundLogger:
    """Returns a logger that writes events of at least `level` to `stream`. Thread-safe.

    Args:
        level: "debug", "info", "warning" or "error".
        log_format: "json", or "text" for people.
        stream: Receives the lines.
        limit: Drops lines that come too often.
    """
    # Tracebacks come without the values of variables, which may be tensors.
    renderer: structlog.typing.Processor = structlog.processors.JSONRenderer()
    if log_format == "text":
        plain = structlog.dev.plain_traceback
        renderer = structlog.dev.ConsoleRenderer(colors=stream.isatty(), exception_formatter=plain)
    logger: FilteringBoundLogger = structlog.wrap_logger(
        _Lines(stream),
        processors=[
            *([limit] if limit else []),
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            _short_and_most_telling_first,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        cache_logger_on_first_use=True,
    )
    return logger


def printable(text: str, *, most_characters: int = _MOST_CHARACTERS, keep: str = "") -> str:
    """Returns `text` ready for the log: cut in its middle if it is long, without tokens, on one line.

    Args:
        text: Any text, also from a peer.
        most_characters: Longest result, not counting the mark of the cut.
        keep: Unprintable characters that stay as they are.
    """
    if len(text) > most_characters:
        half = most_characters // 2
        text = f"{text[:half]}... {len(text) - 2 * half} characters ...{text[-half:]}"
    text = _TOKEN.sub(r"\1 ...", text)
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() or character in keep else ascii(character)[1:-1] for character in text
    )


class _Lines:
    """Writes each line in one call, without the lock of structlog's loggers, on which a finalizer could deadlock."""

    def __init__(self, stream: TextIO | LogWriter) -> None:
        self._stream = stream

    def debug(self, line: str) -> None:
        self._stream.write(f"{line}\n")

    info = warning = error = critical = debug


def _short_and_most_telling_first(_: object, __: str, event: EventDict) -> EventDict:
    first: dict[str, Any] = {name: event.pop(name) for name in ("timestamp", "level", "event")}
    traceback = event.pop("exception", None)
    values = {name: printable(value) if isinstance(value, str) else value for name, value in event.items()}
    if traceback is not None:
        values["exception"] = printable(traceback, most_characters=_MOST_TRACEBACK_CHARACTERS, keep="\n")
    return {**first, **values}


class _Forwarder(logging.Handler):
    """Forwards log records of libraries, from warning on."""

    def __init__(self, log: FilteringBoundLogger) -> None:
        super().__init__(logging.WARNING)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        message = str(record.msg)
        if record.args:
            # gRPC logs the bytes of metadata that it cannot decode; they may be a token.
            hidden: Any = record.args
            if isinstance(hidden, tuple):
                hidden = tuple(f"{len(arg)} bytes" if isinstance(arg, bytes) else arg for arg in hidden)
            with suppress(TypeError, ValueError):  # if the arguments do not fit, the message stays as it is
                message %= hidden
        self._log.log(record.levelno, "library", logger=record.name, message=message, exc_info=record.exc_info)


class _PrintedLines(io.TextIOBase):
    """Replacement of sys.stderr: logs each printed line, so that a print never blocks on a full pipe."""

    def __init__(self, log: FilteringBoundLogger) -> None:
        super().__init__()
        self._log = log
        self._begun = ""

    def write(self, text: str) -> int:
        *lines, self._begun = (self._begun + text).split("\n")
        if len(self._begun) > _MOST_CHARACTERS:
            lines.append(self._begun)
            self._begun = ""
        for line in lines:
            if line:
                self._log.warning("printed", message=line)
        return len(text)

    def fileno(self) -> int:
        return STDERR

    def isatty(self) -> bool:
        return False
