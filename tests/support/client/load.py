"""A process with one client under load from several threads; it counts calls, and checks every gradient bit for bit.

  python -m support.client.load TIMEOUT_S ADDRESS...

Each line of stdin begins the load, with the number of calls as JSON, or `null` for calls until the next line, which
ends them. After each load it prints one line of JSON: the number of calls, and the errors of those that failed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from itertools import count, cycle
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from mse_grad_client import MseGradClient
from support.values import expected, operands

__all__ = ["THREADS", "Load", "Tally"]

_TESTS = Path(__file__).parents[2]
THREADS = 4
_SIZES = (500, 30_000, 150_000)  # elements: within a message, within a chunk, in several chunks


class Tally(NamedTuple):
    """The calls of one load.

    Attributes:
        calls: How many there were.
        failures: The errors of those that failed.
    """

    calls: int
    failures: list[str]


class Load:
    """The process, for a `with` statement.

    Args:
        prefix: Beginning of its command line, such as Host.command.
        addresses: The addresses of its client.
        timeout_s: Bound on each call.
    """

    def __init__(self, prefix: Sequence[str], *addresses: str, timeout_s: float = 30.0) -> None:
        command = [*prefix, sys.executable, "-m", "support.client.load", str(timeout_s), *addresses]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(_TESTS), *sys.path])}
        self._process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __enter__(self) -> Load:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            with suppress(BrokenPipeError):
                self._process.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            raise
        assert error is not None or self._process.returncode == 0

    def run(self, calls: int) -> Tally:
        """Makes `calls` calls."""
        self.begin(calls)
        return self._tally()

    def begin(self, calls: int | None = None) -> None:
        """Begins to make calls; `end` must follow."""
        self._tell(calls)

    def end(self) -> Tally:
        """Ends the load."""
        self._tell(0)
        return self._tally()

    def _tell(self, calls: int | None) -> None:
        assert self._process.stdin is not None
        print(json.dumps(calls), file=self._process.stdin, flush=True)

    def _tally(self) -> Tally:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the process with the client ended"
        return Tally(**json.loads(line))


class _Calls:
    """Calls of one client by several threads."""

    def __init__(self, client: MseGradClient, timeout_s: float, most: int | None) -> None:
        self._client = client
        self._timeout_s = timeout_s
        self._most = most
        self._numbers = count(1)
        self._stopping = threading.Event()
        self._failures: list[str] = []
        self._made: list[int] = []
        self._threads = [threading.Thread(target=self._call, args=(number,)) for number in range(THREADS)]
        for thread in self._threads:
            thread.start()

    def end(self) -> Tally:
        if self._most is None:
            self._stopping.set()
        for thread in self._threads:
            thread.join()
        return Tally(sum(self._made), self._failures)

    def _call(self, thread: int) -> None:
        cases = [(given, expected(*given)) for given in (operands((size,), seed=thread) for size in _SIZES)]
        made = 0
        for given, right in cycle(cases):
            if self._stopping.is_set() or (self._most is not None and next(self._numbers) > self._most):
                break
            made += 1
            try:
                got = self._client.compute(*given, timeout_s=self._timeout_s)
                if got.tobytes() != right.tobytes():
                    self._failures.append("a gradient has wrong bits")
            except Exception as error:  # noqa: BLE001 - whatever it is, the call has failed
                self._failures.append(f"{type(error).__name__}: {error}")
        self._made.append(made)


def main(timeout_s: str, *addresses: str) -> None:
    """Makes calls as stdin says, until it ends."""
    with MseGradClient(addresses) as client:
        for line in sys.stdin:
            most = json.loads(line)
            calls = _Calls(client, float(timeout_s), most)
            if most is None:
                sys.stdin.readline()
            print(json.dumps(calls.end()._asdict()), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
