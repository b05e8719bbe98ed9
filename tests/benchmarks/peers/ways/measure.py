"""A client that measures on command: `python -m benchmarks.peers.ways.measure MODULE:FUNCTION ADDRESS`.

The module names in DISTRIBUTION the package whose release is reported; the function is an `operands.Connect`.
Commands and answers are JSON, one a line, on standard input and output. An error ends it, with the traceback on
standard error.
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

from benchmarks.peers.ways.operands import Call, Connect, Operands

__all__: list[str] = []


class Client:
    """One connection, the call that was prepared last, and the commands.

    Args:
        connect: Of the way.
        address: Of its server.
    """

    def __init__(self, connect: Connect, address: str) -> None:
        self._prepare = connect(address)
        self._call: Call | None = None
        self._first_ns = 0

    def prepare(self, folder: str, items: int) -> dict[str, Any]:
        """Reads operands, computes once and compares all bits; answers how long the call took."""
        self._call = None
        operands = Operands.load(Path(folder), items=items)
        call = self._prepare(operands)
        start_ns = time.perf_counter_ns()
        gradient = call()
        first_ns = time.perf_counter_ns() - start_ns
        y = np.asarray(gradient).reshape(-1)
        if y.dtype != operands.golden.dtype or y.tobytes() != operands.golden.tobytes():
            raise ValueError("the gradient has other bits than the formula gives")
        self._call, self._first_ns = call, first_ns
        return {"first_ns": first_ns}

    def turn(self, budget_s: float, calls: int) -> dict[str, Any]:
        """Calls for about that long, at least once and at most so often; answers the time of each call."""
        assert self._call is not None
        times_ns: list[int] = []
        if self._first_ns < budget_s * 1e9:
            self._call()  # caches and connections have rested since the turn before
        clock, call = time.perf_counter_ns, self._call
        end_ns = clock() + int(budget_s * 1e9)
        while len(times_ns) < calls:
            start_ns = clock()
            call()
            now_ns = clock()
            times_ns.append(now_ns - start_ns)
            if now_ns >= end_ns:
                break
        return {"times_ns": times_ns}

    def rush(self, start_ns: int, end_ns: int) -> dict[str, Any]:
        """Calls all the time between two points of the machine's monotonic clock; answers how often in between."""
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
        """Gives the operands back."""
        self._call = None
        return {}


def main() -> None:
    """Answers until standard input ends."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print is no answer
    where, address = sys.argv[1:3]
    module_name, function_name = where.split(":")
    module = importlib.import_module(f"benchmarks.peers.ways.{module_name}")
    client = Client(getattr(module, function_name), address)
    print(json.dumps({"version": importlib.metadata.version(module.DISTRIBUTION)}), file=answers, flush=True)
    for line in sys.stdin:
        command = json.loads(line)
        answer = getattr(client, command.pop("do"))(**command)
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
