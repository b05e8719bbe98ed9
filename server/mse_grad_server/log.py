"""Logs: JSON, one line an event, to stderr; never tensor data."""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import Literal, TextIO, cast

import structlog
from structlog.typing import FilteringBoundLogger

__all__ = ["forward_library_logs", "open_log"]


_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


def open_log(level: str, log_format: Literal["json", "text"], *, stream: TextIO) -> FilteringBoundLogger:
    """Returns a logger that writes events of at least `level` to `stream`. Any number of threads may use it.

    Args:
        level: "debug", "info", "warning" or "error".
        log_format: "json", or "text" for people.
        stream: Where to.
    """
    renderer: list[structlog.typing.Processor]
    # Tracebacks without the values of variables, which may be tensors.
    if log_format == "json":
        renderer = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    else:
        colors = stream.isatty()
        renderer = [structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=structlog.dev.plain_traceback)]
    logger: FilteringBoundLogger = structlog.wrap_logger(
        structlog.WriteLogger(cast(TextIO, _Lasting(stream))),
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _most_telling_first,
            *renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        cache_logger_on_first_use=True,
    )
    return logger


def forward_library_logs(log: FilteringBoundLogger) -> logging.Handler:
    """Sends what libraries log, from warning on, through `log`; returns the handler, for the caller to take off."""
    handler = _Forwarder(log)
    logging.getLogger().addHandler(handler)
    return handler


def _most_telling_first(_: object, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    first = {name: event.pop(name) for name in ("timestamp", "level", "event")}
    return {**first, **event}


class _Lasting:
    """A stream whose reader may go away: no request fails, and no worker stays, because nobody reads the log."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        with suppress(BrokenPipeError):
            self._stream.write(text)

    def flush(self) -> None:
        with suppress(BrokenPipeError):
            self._stream.flush()


class _Forwarder(logging.Handler):
    def __init__(self, log: FilteringBoundLogger) -> None:
        super().__init__(logging.WARNING)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        self._log.log(
            record.levelno, "library", logger=record.name, message=record.getMessage(), exc_info=record.exc_info
        )
