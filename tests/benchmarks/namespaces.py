"""Shared memory with a client in another network namespace, as in another pod, against one in the server's own.

`PYTHONPATH=tests .venv/bin/python -m benchmarks.namespaces`; needs Linux, and a user who may make network namespaces.
Both clients connect to the same file of a unix socket and take turns, call by call.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from statistics import median

import numpy as np
from rich.console import Console
from rich.table import Table

from mse_grad_client import MseGradClient
from support.server.server_process import running_server
from support.tools import require_program
from support.values import expected, operands

__all__ = ["Compared", "compare"]

ARRAYS = ("the client's", "ordinary")


@dataclass(frozen=True)
class Compared:
    """Times of a call, in seconds.

    Attributes:
        arrays: One of ARRAYS.
        own_s: Median of the client in the server's namespace.
        other_s: Median of the client in another one.
    """

    arrays: str
    own_s: float
    other_s: float


def compare(*, elements: int, rounds: int) -> Iterator[Compared]:
    """Yields the times for each of ARRAYS; fails unless both clients share memory and get every bit right."""
    with tempfile.TemporaryDirectory(prefix="mse", dir="/tmp") as folder, ExitStack() as opened:
        server = opened.enter_context(running_server(listen=f"unix:{folder}/s.sock"))
        prefixes = ((), (require_program("unshare"), "--net"))
        clients = [opened.enter_context(_running(server.address, elements, prefix)) for prefix in prefixes]
        for arrays in ARRAYS:
            times_s: list[list[float]] = [[], []]
            for number in range(2 * rounds):
                # As often first as second in a pair.
                index = (number + number // 2) % 2
                times_s[index].append(clients[index].call(arrays))
            yield Compared(arrays, *(median(each) for each in times_s))


class _Client:
    """A process that computes when it is asked to."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def call(self, arrays: str) -> float:
        """Returns the seconds of one call."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{arrays}\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, "the client has ended"
        found = json.loads(answer)
        assert found["transport"] == "shared_memory"
        assert found["is_right"]
        return float(found["seconds"])


@contextmanager
def _running(address: str, elements: int, prefix: Sequence[str]) -> Iterator[_Client]:
    command = [*prefix, sys.executable, "-m", "benchmarks.namespaces", "--client", address, "--elements", str(elements)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}  # as pytest set it in this process
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        client = _Client(process)
        for arrays in ARRAYS:
            for _ in range(3):  # hands the memory over, and fills the caches
                client.call(arrays)
        yield client


def _serve_calls(address: str, elements: int) -> None:
    """Computes for each line of stdin, with the arrays that it names, and prints how that went."""
    given = operands((elements,))
    right = expected(*given).tobytes()
    with MseGradClient(address) as client:
        transport = client.server_info().transport
        lent = [client.empty(elements, np.float32) for _ in range(4)]
        for array, values in zip(lent, given, strict=False):
            array[...] = values
        own = [*given, np.empty_like(given[0])]
        for line in sys.stdin:
            predict, label, dout, out = lent if line.strip() == ARRAYS[0] else own
            out[...] = 0
            began_s = time.perf_counter()
            client.compute(predict, label, dout, out=out)
            seconds = time.perf_counter() - began_s
            found = {"seconds": seconds, "transport": transport, "is_right": out.tobytes() == right}
            print(json.dumps(found), flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the medians of both clients, and their ratio."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.namespaces", description=__doc__)
    parser.add_argument("--elements", type=int, default=2**20, help="of each operand (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=200, help="calls of each client (default %(default)s)")
    parser.add_argument("--client", metavar="ADDRESS", help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.client:
        _serve_calls(given.client, given.elements)
        return 0
    table = Table(title=f"{given.elements} float32 elements, medians of {given.rounds} calls", title_justify="left")
    for heading in ("arrays", "own namespace ms", "another ms", "ratio"):
        table.add_column(heading, justify="left" if heading == "arrays" else "right")
    for found in compare(elements=given.elements, rounds=given.rounds):
        times = (f"{1000 * found.own_s:.3f}", f"{1000 * found.other_s:.3f}", f"{found.other_s / found.own_s:.3f}")
        table.add_row(found.arrays, *times)
    Console(width=100).print(table)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
