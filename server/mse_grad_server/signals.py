"""SIGTERM and SIGINT."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable

from structlog.typing import FilteringBoundLogger

__all__ = ["on_stop_signals"]


def on_stop_signals(log: FilteringBoundLogger, *, stop: Callable[[], None], force: Callable[[], None]) -> None:
    """Calls `stop` in the running event loop at the first SIGTERM or SIGINT, and `force` at every further one."""
    loop = asyncio.get_running_loop()
    is_stopping = False

    def asked(number: signal.Signals) -> None:
        nonlocal is_stopping
        if is_stopping:
            log.warning("forced", signal=number.name)
            force()
            return
        is_stopping = True
        log.info("signal", signal=number.name)
        stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, asked, number)
