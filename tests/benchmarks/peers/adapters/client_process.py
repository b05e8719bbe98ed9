"""Client that measures on command: `python -m benchmarks.peers.adapters.client_process MODULE:FUNCTION ADDRESS`.

DISTRIBUTION of the module names the package whose release is reported; the function is an `operands.Connect`. A module
with SAME_BITS = False may round differently from the formula. Commands and answers are JSON, one a line, on standard
input and output. An error ends the process, with the traceback on standard error.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers.adapters.operands import Array, Call, Connect, Operands

__all__: list[str] = []

_OTHER_ROUNDING_AT_MOST = 0.02  # relative to the norm of the whole tensor


class Client:
    """One connection, the call that was prepared last, and the commands.

    Args:
        connect: The adapter's function that connects.
        address: Address of its server.
        same_bits: Whether every bit of a gradient must be the formula's.
    """

    def __init__(self, connect: Connect, address: str, *, same_bits: bool) -> None:
        self._prepare = connect(address)
        self._same_bits = same_bits
        self._call: Call | None = None
        self._first_ns = 0

    def prepare(self, folder: str, items: int) -> dict[str, Any]:
        """Reads operands, computes once and compares the gradient; returns the duration of the call."""
        self._call = None
        operands = Operands.load(Path(folder), items=items)
        call = self._prepare(operands)
        start_ns = time.perf_counter_ns()
        gradient = call()
        first_ns = time.perf_counter_ns() - start_ns
        y = np.asarray(gradient).reshape(-1)
        if self._same_bits:
            if y.dtype != operands.golden.dtype or y.tobytes() != operands.golden.tobytes():
                raise ValueError("the gradient has other bits than the formula gives")
        elif _difference(y, operands.golden) > _OTHER_ROUNDING_AT_MOST:
            raise ValueError("the gradient is not that of the formula")
        self._call, self._first_ns = call, first_ns
        return {"first_ns": first_ns}

    def turn(self, budget_s: float, calls: int) -> dict[str, Any]:
        """Calls for about this long, at least once and at most as often as given.

        Returns:
            The time of each call, and the number of calls with the one that is not timed.
        """
        assert self._call is not None
        times_ns: list[int] = []
        untimed = 0
        if self._first_ns < budget_s * 1e9:
            self._call()  # caches and connections have been idle since the last turn
            untimed = 1
        clock, call = time.perf_counter_ns, self._call
        end_ns = clock() + int(budget_s * 1e9)
        while len(times_ns) < calls:
            start_ns = clock()
            call()
            now_ns = clock()
            times_ns.append(now_ns - start_ns)
            if now_ns >= end_ns:
                break
        return {"times_ns": times_ns, "calls": untimed + len(times_ns)}

    def count(self, start_ns: int, end_ns: int) -> dict[str, Any]:
        """Calls repeatedly between two times of the machine's monotonic clock; returns the number of calls."""
        assert self._call is not None
        clock, call = time.monotonic_ns, self._call
        calls = 0
        while clock() < start_ns:
            call()
        while True:
            call()
            if clock() >= end_ns:
                return {"calls": calls}
            calls += 1

    def forget(self) -> dict[str, Any]:
        """Releases the operands."""
        self._call = None
        return {}


def _difference(y: Array, golden: Array) -> float:
    wide = golden.astype(np.float64)
    return float(np.linalg.norm(y.astype(np.float64) - wide) / np.linalg.norm(wide))


def main() -> None:
    """Answers commands until standard input ends."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # a line that a library prints must not pass for an answer
    adapter, address = sys.argv[1:3]
    module_name, function_name = adapter.split(":")
    module = importlib.import_module(f"benchmarks.peers.adapters.{module_name}")
    client = Client(getattr(module, function_name), address, same_bits=getattr(module, "SAME_BITS", True))
    print(json.dumps({"version": importlib.metadata.version(module.DISTRIBUTION)}), file=answers, flush=True)
    for line in sys.stdin:
        command = json.loads(line)
        answer = getattr(client, command.pop("do"))(**command)
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
