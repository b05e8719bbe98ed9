"""The command `mse-grad-server` with a monitor of its event loop: each stall of 5 ms or more is a line on stdout.

A line has three figures in seconds: the time at which the stall began, its length, and the processor time that the
thread used meanwhile.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

from mse_grad_server import __main__ as command

_TURN_S = 0.002
_STALL_S = 0.005


async def watch() -> None:
    """Reports, for ever, each time when the event loop did not run for a while."""
    while True:
        began_s, busy_s = time.monotonic(), time.thread_time()
        await asyncio.sleep(_TURN_S)
        stall_s = time.monotonic() - began_s - _TURN_S
        if stall_s >= _STALL_S:
            print(f"{began_s:.4f} {stall_s:.4f} {time.thread_time() - busy_s:.4f}", flush=True)


def watched(run: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """Returns `run` with the monitor beside it."""

    async def running(*arguments: Any) -> Any:
        watching = asyncio.ensure_future(watch())
        try:
            return await run(*arguments)
        finally:
            watching.cancel()

    return running


if __name__ == "__main__":
    command.exit_code_of = watched(command.exit_code_of)  # type: ignore[assignment,attr-defined]
    sys.exit(command.main(sys.argv[1:]))
