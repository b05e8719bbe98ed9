from __future__ import annotations

import io
import os
import signal
import subprocess
import sys

import pytest

from mse_grad_server.process.log import open_log
from mse_grad_server.process.signals import on_stop_signals
from support.waiting import until

WATCHED = """
import asyncio, io, signal
from mse_grad_server.process.log import open_log
from mse_grad_server.process.signals import on_stop_signals
async def main():
    on_stop_signals(open_log("info", "json", stream=io.StringIO()), stop=lambda: None, force=lambda: None)
    return signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
print(asyncio.run(main()))
"""


class Heard:
    """Counts the calls of `stop` and `force`; the end of the event loop removes the handlers."""

    def __init__(self) -> None:
        self.stops = 0
        self.forces = 0
        on_stop_signals(open_log("info", "json", stream=io.StringIO()), stop=self._stop, force=self._force)

    def _stop(self) -> None:
        self.stops += 1

    def _force(self) -> None:
        self.forces += 1


@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
async def test_the_first_signal_stops_and_a_second_one_forces(first: signal.Signals, second: signal.Signals) -> None:
    heard = Heard()
    os.kill(os.getpid(), first)
    await until(lambda: heard.stops == 1)
    assert heard.forces == 0
    os.kill(os.getpid(), second)
    await until(lambda: heard.forces == 1)
    assert heard.stops == 1


async def test_a_second_hangup_forces_nothing() -> None:
    heard = Heard()
    os.kill(os.getpid(), signal.SIGTERM)
    await until(lambda: heard.stops == 1)
    os.kill(os.getpid(), signal.SIGHUP)
    os.kill(os.getpid(), signal.SIGTERM)  # the loop handles it after the hangup, or in the same turn
    await until(lambda: heard.forces >= 1)
    assert (heard.stops, heard.forces) == (1, 1)


@pytest.mark.parametrize("is_ignored", [True, False])
def test_a_hangup_that_is_ignored_at_the_start_stays_ignored(is_ignored: bool) -> None:
    ignore = "trap '' HUP; " if is_ignored else ""
    command = ["sh", "-c", f'{ignore}exec "$0" -c "$1"', sys.executable, WATCHED]
    ended = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=60)
    assert ended.stdout.strip() == str(is_ignored)
