"""Overload: goodput and latency when callers offer more than a server can compute, relative to those without overload.

`make overload`, or `PYTHONPATH=tests .venv/bin/python -m benchmarks.overload --rounds 1`. Closed loop: a fixed number
of callers, each of which makes its next call as soon as the last one has ended. Open loop: calls at times that do not
depend on the answers, three times as many as the peak.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from mse_grad_client import ClientOptions, DeadlineExceeded, MseGradClient, MseGradError, RetryOptions
from support.server.server_process import running_server
from support.values import operands

__all__ = ["Load", "Outcome", "offer"]

# Elements of a call, and the percentage of calls with this size.
SIZES = ((1_000, 60), (64_000, 30), (1_000_000, 10))
PROCESSES = 2
WARM_UP_S = 0.5
TIMEOUT_S = 20.0


@dataclass(frozen=True)
class Load:
    """The load that callers offer.

    Attributes:
        callers: Threads, over all processes.
        seconds: Duration.
        shares_memory: Whether clients share memory with the server.
        rate_per_s: Calls that begin in a second; 0 for a closed loop.
        retries: Whether the SDK retries refused calls.
    """

    callers: int
    seconds: float
    shares_memory: bool = False
    rate_per_s: float = 0.0
    retries: bool = True


@dataclass
class Outcome:
    """The result of a load.

    Attributes:
        seconds: Duration.
        elements: Elements of all gradients that clients received.
        latencies_s: Latencies of the calls that were answered.
        refusals_s: Durations of the calls that were refused in the end.
        late: Number of calls that exceeded their deadline.
        failed: Messages of all other errors.
    """

    seconds: float = 0.0
    elements: int = 0
    latencies_s: list[float] = field(default_factory=list)
    refusals_s: list[float] = field(default_factory=list)
    late: int = 0
    failed: list[str] = field(default_factory=list)

    @property
    def goodput(self) -> float:
        """Elements per second."""
        return self.elements / self.seconds

    def percentile_s(self, percent: float) -> float:
        """Returns the latency that `percent` percent of the answered calls do not exceed."""
        return float(np.percentile(self.latencies_s, percent)) if self.latencies_s else float("nan")

    def add(self, other: Outcome) -> None:
        """Adds the result of another process that ran at the same time."""
        self.seconds = max(self.seconds, other.seconds)
        self.elements += other.elements
        self.latencies_s += other.latencies_s
        self.refusals_s += other.refusals_s
        self.late += other.late
        self.failed += other.failed


def offer(address: str, load: Load) -> Outcome:
    """Offers `load` to the server from separate processes."""
    processes = min(PROCESSES, load.callers)
    each = {**asdict(load), "callers": load.callers // processes, "rate_per_s": load.rate_per_s / processes}
    callers = [
        subprocess.Popen(
            [sys.executable, "-m", "benchmarks.overload", "--caller", address, json.dumps({**each, "seed": seed})],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        for seed in range(processes)
    ]
    total = Outcome()
    for caller in callers:
        output, _ = caller.communicate(timeout=load.seconds + TIMEOUT_S + 60)
        assert caller.returncode == 0, "a process of callers failed"
        total.add(Outcome(**json.loads(output)))
    return total


def _call(address: str, values: dict[str, object]) -> Outcome:
    """Runs the callers of one process."""
    seed = values.pop("seed")
    load = Load(**values)  # type: ignore[arg-type]
    outcome, lock = Outcome(), threading.Lock()
    options = ClientOptions(
        shared_memory=load.shares_memory,
        timeout_s=TIMEOUT_S,
        retry=RetryOptions(max_attempts=None if load.retries else 1),
    )
    given = [operands((elements,)) for elements, _ in SIZES]
    ready = threading.Barrier(load.callers + 1)

    def call(client: MseGradClient, number: int) -> None:
        rng = random.Random(f"{seed} {number}")
        outs = [np.empty_like(predict) for predict, _, _ in given]
        client.compute(*given[0])
        ready.wait()
        warm_s = time.monotonic() + WARM_UP_S
        end_s = warm_s + load.seconds
        mine = Outcome()
        due_s = time.monotonic()
        while (now_s := time.monotonic()) < end_s:
            if load.rate_per_s:
                due_s += rng.expovariate(load.rate_per_s / load.callers)
                time.sleep(max(0.0, due_s - now_s))
            kind = rng.choices(range(len(SIZES)), [weight for _, weight in SIZES])[0]
            began_s = time.monotonic()
            try:
                client.compute(*given[kind], out=outs[kind])
            except DeadlineExceeded:
                mine.late += 1
                continue
            except MseGradError as error:
                if error.retry_delay_s is not None:
                    mine.refusals_s.append(time.monotonic() - began_s)
                    if not load.rate_per_s:
                        time.sleep(error.retry_delay_s)
                else:
                    mine.failed.append(str(error))
                continue
            if warm_s <= time.monotonic() < end_s:
                mine.elements += SIZES[kind][0]
                mine.latencies_s.append(time.monotonic() - began_s)
        with lock:
            outcome.add(mine)

    with MseGradClient(address, options=options) as client:
        threads = [threading.Thread(target=call, args=(client, number)) for number in range(load.callers)]
        for thread in threads:
            thread.start()
        ready.wait()
        for thread in threads:
            thread.join()
    outcome.seconds = load.seconds
    return outcome


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints a table; returns 0 if no call failed except by a refusal."""
    parser = argparse.ArgumentParser(prog="overload", description=__doc__)
    parser.add_argument("--caller", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each load")
    parser.add_argument("--callers", type=int, nargs="+", default=[2, 8, 16, 64])
    parser.add_argument("--in-flight", nargs="+", default=["1GiB", "64MiB"], help="--max-in-flight-bytes to try")
    parser.add_argument("--transport", nargs="+", default=["tcp", "shared"])
    parser.add_argument("--no-open", action="store_true", help="skip the open loop")
    given = parser.parse_args(arguments)
    if given.caller:
        json.dump(asdict(_call(given.caller[0], json.loads(given.caller[1]))), sys.stdout)
        return 0
    failed: list[str] = []
    for in_flight in given.in_flight:
        with running_server("--max-in-flight-bytes", in_flight, metrics_listen="none") as server:
            for transport in given.transport:
                failed += _measure(server.address, transport, in_flight, given)
    for line in failed:
        print(line)
    return 1 if failed else 0


def _measure(address: str, transport: str, in_flight: str, given: argparse.Namespace) -> list[str]:
    shares = transport == "shared"
    rows: dict[str, list[Outcome]] = {}
    for _ in range(given.rounds):
        peak_per_s = 0.0
        for callers in given.callers:
            outcome = offer(address, Load(callers, given.seconds, shares))
            rows.setdefault(f"{callers} callers", []).append(outcome)
            peak_per_s = max(peak_per_s, len(outcome.latencies_s) / given.seconds)
        if not given.no_open:
            # The open loop shows each refusal as the server sent it; in a closed loop the SDK retries.
            load = Load(64, given.seconds, shares, rate_per_s=3 * peak_per_s, retries=False)
            rows.setdefault("64, open loop, 3x", []).append(offer(address, load))
    goodputs = {name: statistics.median(each.goodput for each in outcomes) for name, outcomes in rows.items()}
    peak = max(goodputs.values())
    few = next(iter(rows))
    table = Table(title=f"{transport}, {in_flight} admitted", title_justify="left", box=SIMPLE_HEAD)
    for heading in ("load", "goodput/peak", f"p50/{few}", f"p99/{few}", "p99 ms", "refused", "within ms", "late"):
        table.add_column(heading, no_wrap=True)
    for name, outcomes in rows.items():
        refusals = sorted(refusal for each in outcomes for refusal in each.refusals_s)
        p50, p99 = (statistics.median(each.percentile_s(percent) for each in outcomes) for percent in (50, 99))
        p50_few, p99_few = (statistics.median(each.percentile_s(percent) for each in rows[few]) for percent in (50, 99))
        table.add_row(
            name,
            f"{goodputs[name] / peak:.2f}",
            f"{p50 / p50_few:.1f}",
            f"{p99 / p99_few:.1f}",
            f"{1000 * p99:.0f}",
            str(len(refusals)),
            f"{1000 * refusals[-1]:.0f}" if refusals else "",
            str(sum(each.late for each in outcomes)),
        )
    Console(width=120).print(table)
    return [line for outcomes in rows.values() for each in outcomes for line in each.failed]


if __name__ == "__main__":
    sys.exit(main())
