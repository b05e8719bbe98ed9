"""Stop signals of the process: SIGTERM, SIGINT and SIGHUP."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable

from structlog.typing import FilteringBoundLogger

__all__ = ["on_stop_signals"]


def on_stop_signals(log: FilteringBoundLogger, *, stop: Callable[[], None], force: Callable[[], None]) -> None:
    """Calls `stop` in the running event loop at the first signal, and `force` at every later SIGTERM or SIGINT.

    A second SIGHUP forces nothing, because a closing terminal may send two. Under nohup SIGHUP stays ignored.
    """
    loop = asyncio.get_running_loop()
    is_stopping = False

    def on_signal(number: signal.Signals) -> None:
        nonlocal is_stopping
        if not is_stopping:
            is_stopping = True
            log.info("signal", signal=number.name)
            stop()
        elif number is not signal.SIGHUP:
            log.warning("forced", signal=number.name)
            force()

    numbers = [signal.SIGTERM, signal.SIGINT]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    for number in numbers:
        loop.add_signal_handler(number, on_signal, number)
