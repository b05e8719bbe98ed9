"""Random faults of the simulated NPU under load, loud and silent ones: every answer is right or typed (`make chaos`).

A server runs on the simulated NPU. Every few hundred milliseconds a call to its runtime begins to fail, in a way that
the seed decides: with any code, at once or later, once or for a while; the device is lost or dead; a task never ends,
or a call never returns; or a launch or a copy writes nothing, zeros or half, and nobody says so. Meanwhile callers
compute gradients of several sizes, dtypes and transports, and compare every bit. A server that ends with a code for a
lost device is started again, as a supervisor does. After each fault gradients must come again.

`make chaos` runs for ten minutes. `make chaos ARGS="--minutes 1 --seed 7"` repeats other faults.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from mse_grad.tensor import BFLOAT16, FLOAT16, FLOAT32
from mse_grad_client import ClientOptions, MseGradClient, MseGradError, RetryOptions
from mse_grad_server.process.exits import ExitCode
from support.npu.faults import CALLS, CODES, QUEUEING, rules
from support.server.backends import ascend_flags
from support.values import expected, operands
from support.waiting import PATIENCE_S

__all__ = ["ALLOWED_ENDS", "RIGHT", "Report", "chaos"]

RIGHT = "right"
ALLOWED_ENDS = frozenset(
    (
        *(RIGHT, "DEVICE_UNAVAILABLE", "SERVER_BUSY", "DEADLINE_EXCEEDED", "INTERNAL"),
        *("DRAINING", "NOT_READY", "CONNECTION_LOST"),  # the process ends, or another one starts
    )
)
"""How a call may end: with the right bits, or with one of these reasons."""
ALLOWED_EXITS = frozenset((ExitCode.DEVICE_LOST, ExitCode.DEVICE_HUNG))
"""How a server may end by itself."""

_FLAGS = ("--device-timeout-s", "0.5", "--device-hang-s", "2", "--device-block-bytes", "256KiB", "--device-slots", "3")
_SIZES = (1, 37, 1000, 5000, 70_000, 300_000)
_DTYPES = (FLOAT32, FLOAT16, BFLOAT16)
_ONCE = RetryOptions(max_attempts=1)
_CLIENTS = {
    "tcp": ClientOptions(shared_memory=False, retry=_ONCE),
    "shared": ClientOptions(retry=_ONCE),
    "stream": ClientOptions(shared_memory=False, direct=False, retry=_ONCE),
    "retrying": ClientOptions(),
}
_CALL_TIMEOUT_S = 20.0
_GRACE_S = 10.0
_REPORT_S = 10.0
# How long gradients may be missing after a fault, which includes the start of another server.
_AWAY_S = PATIENCE_S


@dataclass
class Report:
    """The result of a run.

    Attributes:
        faults: Faults, by their mode.
        ends: Ends of calls.
        exits: Ends of servers.
        longest_away_s: Longest time after a fault until the next right gradient.
        broken: Broken promises.
    """

    faults: Counter[str] = field(default_factory=Counter)
    ends: Counter[str] = field(default_factory=Counter)
    exits: Counter[str] = field(default_factory=Counter)
    longest_away_s: float = 0.0
    broken: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        def text(counts: Counter[str]) -> str:
            return ", ".join(f"{count} {name.lower()}" for name, count in counts.most_common()) or "none"

        return (
            f"{sum(self.faults.values())} faults ({text(self.faults)}); calls: {text(self.ends)}; servers ended: "
            f"{text(self.exits)}; longest away {self.longest_away_s:.1f} s; promises broken: {len(self.broken)}"
        )


def chaos(seconds: float, *, seed: int = 1, say: Callable[[str], None] = lambda line: None) -> Report:
    """Injects faults for `seconds`.

    Args:
        seconds: Duration.
        seed: Decides the faults.
        say: Takes a line about the progress.
    """
    report, rng = Report(), random.Random(seed)
    with tempfile.TemporaryDirectory() as folder, _Server(Path(folder, "log"), report) as server:
        load = _Load(server.address, report)
        load.begin()
        try:
            end_s = said_s = time.monotonic()
            end_s += seconds
            while time.monotonic() < end_s:
                fault, mode = _fault(rng)
                report.faults[mode] += 1
                load.await_right(fault, server)
                server.tell(fault)
                time.sleep(rng.uniform(0.02, 0.3))
                server.tell("clear")
                load.await_right(fault, server)
                if time.monotonic() - said_s >= _REPORT_S:
                    said_s = time.monotonic()
                    say(f"{time.strftime('%H:%M:%S')} {report}")
        finally:
            load.stop()
    return report


def _fault(rng: random.Random) -> tuple[str, str]:
    """Returns a fault and its mode."""
    when = f"after={rng.choice((0, 0, 1, 3, 10, 50))} times={rng.choice((1, 1, 2, 5, 0))}"
    kind = rng.random()
    if kind < 0.4:
        fault = rng.choice(list(rules(rng.choice(CALLS), rng.choice(CODES), when)))
    elif kind < 0.8:
        call = rng.choice(("aclnnMseLossGrad*", "aclnnMseLossGrad*", "aclrtMemcpyAsync"))
        fault = f"{call} mode={rng.choice(('skip', 'zero', 'half', 'last'))} {when}"
    elif kind < 0.9:
        fault = f"{rng.choice(CALLS)} us={rng.choice((100, 5000, 50_000))} {when}"
    elif kind < 0.97:
        fault = f"{rng.choice(('aclnnMseLossGrad*', 'aclrtMemcpyAsync'))} mode=hang after=3"
    elif kind < 0.985:
        fault = f"{rng.choice(QUEUEING)} code=507899 mode=dead after=3"
    else:
        fault = "aclrtQueryEventStatus mode=hang after=3"
    words = dict(word.split("=") for word in fault.split()[1:])
    return fault, words.get("mode", "slow" if "us" in words else "return")


class _Server:
    """The server, started again each time that it ends; a context manager."""

    def __init__(self, log: Path, report: Report) -> None:
        self._log = log
        self._report = report
        self._flags = ascend_flags()
        self._ends = False
        self.address = "127.0.0.1:0"

    def __enter__(self) -> _Server:
        self._start()
        return self

    def __exit__(self, *_: object) -> None:
        self._hang_up()
        self._process.terminate()
        try:
            code = self._process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        if code not in (0, *ALLOWED_EXITS):
            self._report.broken.append(f"the server ended with {code} after SIGTERM: {self.tail}")

    @property
    def tail(self) -> str:
        """The end of its log."""
        return self._log.read_text(encoding="utf-8", errors="replace")[-2000:]

    def tell(self, line: str) -> None:
        """Sends a fault; starts another server if this one has ended."""
        self.look()
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(f"{line}\n".encode())
            self._process.stdin.flush()
        except BrokenPipeError:
            self.look()

    def look(self) -> None:
        """Starts another server if this one has ended."""
        code = self._process.poll()
        if code is None:
            return
        self._report.exits[str(code)] += 1
        if code not in ALLOWED_EXITS:
            self._report.broken.append(f"the server ended with {code}: {self.tail}")
        self._hang_up()
        self._start()

    def _hang_up(self) -> None:
        assert self._process.stdin is not None
        with suppress(OSError):  # what it has not read is lost
            self._process.stdin.close()

    def _start(self) -> None:
        program = str(Path(__file__).with_name("faulty_server.py"))
        arguments = ("--listen", self.address, "--metrics-listen", "none", *self._flags, *_FLAGS)
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}  # as pytest set it in this process
        with self._log.open("wb") as stderr:
            self._process = subprocess.Popen(
                [sys.executable, program, *arguments], env=environment, stdin=subprocess.PIPE, stderr=stderr
            )
        give_up_s = time.monotonic() + 2 * PATIENCE_S
        while b'"ready"' not in self._log.read_bytes():
            assert self._process.poll() is None, f"the server ended with {self._process.poll()}: {self.tail}"
            assert time.monotonic() < give_up_s, f"the server does not become ready: {self.tail}"
            time.sleep(0.02)
        text = self._log.read_text(encoding="utf-8")
        self.address = text.partition('"listen": "')[2].partition('"')[0]


class _Load:
    """Callers in threads, until `stop`."""

    def __init__(self, address: str, report: Report) -> None:
        self._address = address
        self._report = report
        self._stopping = threading.Event()
        self._lock = threading.Condition()
        self._right = 0
        self._threads: list[threading.Thread] = []

    def begin(self) -> None:
        """Starts the callers."""
        for name in _CLIENTS:
            thread = threading.Thread(target=self._call, args=(name,), name=name, daemon=True)
            thread.start()
            self._threads.append(thread)

    def stop(self) -> None:
        """Stops the callers; one that does not end is a broken promise."""
        self._stopping.set()
        for thread in self._threads:
            thread.join(_CALL_TIMEOUT_S + _GRACE_S)
            if thread.is_alive():
                self._break(f"{thread.name} hangs")

    def await_right(self, fault: str, server: _Server) -> None:
        """Waits until a right gradient comes that began after this call."""
        began_s = time.monotonic()
        with self._lock:
            wanted = self._right + len(_CLIENTS) + 1  # each caller may have had one under way
            while self._right < wanted:
                self._lock.wait(0.1)
                if time.monotonic() - began_s > _AWAY_S:
                    self._report.broken.append(f"no gradients for {_AWAY_S:g} s after {fault!r}: {server.tail}")
                    break
                server.look()
        self._report.longest_away_s = max(self._report.longest_away_s, time.monotonic() - began_s)

    def _call(self, name: str) -> None:
        rng = random.Random(name)
        with MseGradClient(self._address, options=_CLIENTS[name]) as client:
            while not self._stopping.is_set():
                dtype, elements = rng.choice(_DTYPES), rng.choice(_SIZES)
                given = operands((elements,), dtype, seed=rng.randrange(1000))
                reduction = rng.choice(("mean", "sum", "none"))
                numel = elements * 3 if reduction == "mean" and rng.random() < 0.3 else 0
                began_s = time.monotonic()
                try:
                    y = client.compute(*given, reduction, numel=numel, timeout_s=_CALL_TIMEOUT_S)
                    is_right = y.tobytes() == expected(*given, reduction, numel=numel).tobytes()
                    end = RIGHT if is_right else "wrong"
                except MseGradError as error:
                    end = error.reason.value if error.reason is not None else error.code.name
                except Exception as error:  # noqa: BLE001 - shown as a broken promise
                    end = repr(error)
                took_s = time.monotonic() - began_s
                if end not in ALLOWED_ENDS:
                    self._break(f"{name}, {elements} elements, {dtype.name}, {reduction}: {end}")
                if took_s > _CALL_TIMEOUT_S + _GRACE_S:
                    self._break(f"{name} took {took_s:.1f} s")
                with self._lock:
                    self._report.ends[end] += 1
                    self._right += end == RIGHT
                    self._lock.notify_all()
                if end != RIGHT:
                    self._stopping.wait(0.01)

    def _break(self, what: str) -> None:
        with self._lock:
            self._report.broken.append(f"{time.strftime('%H:%M:%S')} {what}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the result; returns 0 if every promise was kept."""
    parser = argparse.ArgumentParser(
        prog="chaos", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args(arguments)
    report = chaos(60 * given.minutes, seed=given.seed, say=lambda line: print(line, flush=True))
    for line in report.broken[:50]:
        print(line)
    print(report)
    return 1 if report.broken else 0


if __name__ == "__main__":
    sys.exit(main())
