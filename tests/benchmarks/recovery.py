"""Recovery from faults of the simulated NPU in a whole server under load: the time without gradients.

`PYTHONPATH=tests .venv/bin/python -m benchmarks.recovery`; with `--all` every code at every call, which takes minutes.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from mse_grad_client import ClientOptions, MseGradClient, MseGradError, RetryOptions
from mse_grad_server.backends.ascend.acl.error_codes import fault_of
from mse_grad_server.process.exits import ExitCode
from support.npu.faults import CALLS, CODES, ONE_CODE_A_CLASS, rules
from support.npu.runtime import AscendRuntime
from support.npu.serving import serving
from support.npu.simulator import build
from support.server.server_in_loop import Serving
from support.values import expected, operands

__all__ = ["ALLOWED_ENDS", "Recovery", "recover"]

CALLERS = 4
REQUESTS_EACH = 12
# The server has not seen the size of the calls under faults, so that it plans their launches, too.
WARM_ELEMENTS = 1000
ELEMENTS = 3000
DEADLINE_S = 10.0
RUNGS = ("retry", "rebuild", "reset", "end")
RIGHT = "right"
# Number of calls that succeed first; small enough that each call of CALLS is made more often than this under load.
WHEN = "after=5"
ALLOWED_ENDS = frozenset({RIGHT, "DEVICE_UNAVAILABLE", "SERVER_BUSY", "INTERNAL", "DEADLINE_EXCEEDED", "DRAINING"})
"""How a request may end while calls fail: with the right bits, or with one of these reasons."""
_TITLE = "rungs: attempts; away: time without a right gradient, counted from the fault's end if it stays"
_WIDTH = 205
# The SDK would retry failed calls; here every failure must be visible.
_ONCE = ClientOptions(retry=RetryOptions(max_attempts=1))


@dataclass(frozen=True)
class Recovery:
    """The effect of a fault on a server under load.

    Attributes:
        rule: The fault; see tests/simulator/src/acl/faults.h.
        ends: How the requests ended: "right", or the reason of the error.
        rungs: How often each rung of the ladder was tried.
        away_s: Longest time without a right gradient; if the fault stayed, counted from its removal.
        exit_code: Exit code with which the process would have ended, to be replaced; None if it continued.
    """

    rule: str
    ends: Counter[str]
    rungs: dict[str, int]
    away_s: float
    exit_code: ExitCode | None


class _Load:
    """Callers that compute, check every bit, and note the time of each right gradient."""

    def __init__(self, address: str) -> None:
        self.ends: Counter[str] = Counter()
        self.right_s: list[float] = []
        self._address = address
        self._lock = threading.Lock()

    def run(self, requests_each: int, *, elements: int) -> None:
        """Returns when each caller has finished its requests; raises AssertionError for a wrong bit or a late end."""
        sizes = range(elements, elements + CALLERS)
        with MseGradClient(self._address, options=_ONCE) as client, ThreadPoolExecutor(CALLERS) as threads:
            for done in [threads.submit(self._call, client, size, requests_each) for size in sizes]:
                done.result()

    def run_until_right(self, is_lost: Callable[[], bool]) -> None:
        """Returns when a gradient arrives or none ever will; raises AssertionError if none arrives in time."""
        give_up_s = time.monotonic() + DEADLINE_S
        with MseGradClient(self._address, options=_ONCE) as client:
            while not is_lost() and self._call(client, ELEMENTS, 1) != RIGHT:
                assert time.monotonic() < give_up_s, "no gradient arrives although calls no longer fail"
                time.sleep(0.002)

    def _call(self, client: MseGradClient, elements: int, requests: int) -> str:
        end = RIGHT
        for turn in range(requests):
            given = operands((elements,), seed=turn)
            # Every other request is a part of a larger tensor, which runs the other operator.
            numel = 3 * elements if turn % 2 else 0
            began_s = time.monotonic()
            try:
                y = client.compute(*given, numel=numel, timeout_s=DEADLINE_S)
                assert y.tobytes() == expected(*given, numel=numel).tobytes(), "wrong bits"
                end = RIGHT
            except MseGradError as error:
                end = error.reason.value if error.reason is not None else error.code.name
            ended_s = time.monotonic()
            assert ended_s - began_s < DEADLINE_S + 1, "a request ended after its deadline"
            with self._lock:
                self.ends[end] += 1
                if end == RIGHT:
                    self.right_s.append(ended_s)
        return end


async def recover(runtime: AscendRuntime, rule: str) -> Recovery:
    """Applies `rule` to a server under load.

    Raises:
        AssertionError: A request ended with wrong bits or after its deadline, or no gradient arrived afterwards.
    """
    stays = "times=0" in rule
    async with serving(runtime) as server:
        load = _Load(str(server.server.address))
        await asyncio.to_thread(load.run, 2, elements=WARM_ELEMENTS)
        load.ends.clear()
        with runtime.faults(rule):
            await asyncio.to_thread(load.run, REQUESTS_EACH, elements=ELEMENTS)
        cleared_s = time.monotonic()
        ends = Counter(load.ends)
        lost = server.server.lost
        await asyncio.to_thread(load.run_until_right, lost.done)
        exit_code = lost.result().exit_code if lost.done() else None
        rungs = _rungs(server)
    if exit_code is not None:
        async with serving(runtime) as successor:
            again = _Load(str(successor.server.address))
            await asyncio.to_thread(again.run_until_right, successor.server.lost.done)
            load.right_s += again.right_s
    if stays:
        away_s = min(at for at in load.right_s if at > cleared_s) - cleared_s
    else:
        away_s = max(later - earlier for earlier, later in itertools.pairwise(sorted(load.right_s)))
    return Recovery(rule, ends, rungs, away_s, exit_code)


def _rungs(server: Serving) -> dict[str, int]:
    counts = {rung: int(server.metric("mse_grad_device_rungs_total", rung=rung)) for rung in RUNGS}
    return {rung: count for rung, count in counts.items() if count}


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints a line for each fault; returns 0 if every request ended as allowed and gradients were computed again."""
    parser = argparse.ArgumentParser(prog="recovery", description=__doc__)
    parser.add_argument("--all", action="store_true", help="every code at every call in every way")
    given = parser.parse_args(arguments)
    runtime = AscendRuntime(build())
    table = Table(title=_TITLE, title_justify="left", box=SIMPLE_HEAD)
    for heading in ("fault", "class", "once", "away ms", "for ever", "requests", "away ms", "process"):
        table.add_column(heading, no_wrap=True)
    held = True
    with runtime.options(devices=2):
        for code, call in itertools.product(CODES if given.all else ONE_CODE_A_CLASS, CALLS):
            for rule in itertools.islice(rules(call, code, WHEN), None if given.all else 1):
                once = asyncio.run(recover(runtime, rule))
                for_ever = asyncio.run(recover(runtime, f"{rule} times=0"))
                held = held and {*once.ends, *for_ever.ends} <= ALLOWED_ENDS
                table.add_row(*_row(code, once, for_ever))
    Console(width=_WIDTH).print(table)
    return 0 if held else 1


def _row(code: int, once: Recovery, for_ever: Recovery) -> tuple[str, ...]:
    return (
        once.rule.replace(f" {WHEN}", "").replace(" mode=return", ""),
        fault_of(code).value,
        _rungs_text(once),
        f"{1000 * once.away_s:.0f}",
        _rungs_text(for_ever),
        ", ".join(f"{count} {end.lower()}" for end, count in for_ever.ends.most_common()),
        f"{1000 * for_ever.away_s:.0f}",
        "goes on" if for_ever.exit_code is None else f"ends with {int(for_ever.exit_code)}",
    )


def _rungs_text(recovery: Recovery) -> str:
    return ", ".join(f"{count} {rung}" for rung, count in recovery.rungs.items()) or "none"


if __name__ == "__main__":
    sys.exit(main())
