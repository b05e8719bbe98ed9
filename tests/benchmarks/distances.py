"""A direct connection against gRPC's stream over networks with a delay, losses and a rate.

`PYTHONPATH=tests .venv/bin/python -m benchmarks.distances`; needs Linux and root. Client and server have a network
namespace each. Both ways take turns, call by call, over the same cable.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from statistics import median

from rich.console import Console
from rich.table import Table

from mse_grad.tensor import Array
from mse_grad_client import ClientOptions, MseGradClient
from support.server.separate_hosts import Host, Hosts
from support.server.server_process import running_server
from support.values import expected, operands

__all__ = ["NETWORKS", "Measured", "Network", "measure"]

WAYS = ("direct", "rpc")
_PATIENCE_S = 60.0


@dataclass(frozen=True)
class Network:
    """A network.

    Attributes:
        round_trip_s: Time of a packet and its answer.
        loss: Share of the packets that are lost, each way.
        bytes_per_s: Rate each way; 0 for no bound.
    """

    round_trip_s: float
    loss: float = 0.0
    bytes_per_s: float = 0.0

    @property
    def name(self) -> str:
        """Its name for people."""
        words = [f"{1000 * self.round_trip_s:g} ms"]
        if self.loss:
            words.append(f"{100 * self.loss:g} % lost")
        if self.bytes_per_s:
            words.append(f"{8 * self.bytes_per_s / 1e9:g} Gbit/s")
        return ", ".join(words)


NETWORKS = (
    Network(0.0001),
    Network(0.001),
    Network(0.020),
    Network(0.001, loss=0.01),
    Network(0.020, loss=0.01),
    Network(0.020, bytes_per_s=125e6),
)


@dataclass(frozen=True)
class Measured:
    """Times of a call, in seconds.

    Attributes:
        elements: Elements of each operand.
        direct_s: Median over the direct connection.
        rpc_s: Median over gRPC's stream.
    """

    elements: int
    direct_s: float
    rpc_s: float


def measure(network: Network, sizes: Sequence[int], *, rounds: int) -> Iterator[Measured]:
    """Yields the times for each size; fails unless every bit is right."""
    with Hosts() as hosts, ExitStack() as opened:
        host = hosts.add_far_away(delay_s=network.round_trip_s / 2, loss=network.loss, bytes_per_s=network.bytes_per_s)
        server = opened.enter_context(running_server("--insecure-listen", listen=f"{host.ip}:0", prefix=host.command()))
        clients = {way: opened.enter_context(_running(hosts.client, server.address, way)) for way in WAYS}
        for elements in sizes:
            times_s: dict[str, list[float]] = {way: [] for way in WAYS}
            for way in WAYS:
                clients[way].call(elements)  # opens the congestion window, and fills the caches
            for number in range(rounds):
                for way in WAYS[:: 1 if number % 2 else -1]:
                    times_s[way].append(clients[way].call(elements))
            yield Measured(elements, *(median(times_s[way]) for way in WAYS))


class _Client:
    """A process that computes when it is asked to."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def call(self, elements: int) -> float:
        """Returns the seconds of one call."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{elements}\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, "the client has ended"
        found = json.loads(answer)
        assert found["is_right"]
        return float(found["seconds"])


@contextmanager
def _running(host: Host, address: str, way: str) -> Iterator[_Client]:
    command = host.command(sys.executable, "-m", "benchmarks.distances", "--client", address, "--way", way)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}  # as pytest set it in this process
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield _Client(process)


def _serve_calls(address: str, way: str) -> None:
    """Computes for each number of elements on stdin, and prints how that went."""
    options = ClientOptions(shared_memory=False, direct=way == "direct")
    with MseGradClient(address, options=options) as client:
        deadline_s = time.monotonic() + _PATIENCE_S
        while way == "direct" and client.server_info().transport != "direct":
            assert time.monotonic() < deadline_s, "the direct connection does not stand"
        cases: dict[int, tuple[tuple[Array, Array, Array], bytes]] = {}
        for line in sys.stdin:
            elements = int(line)
            if elements not in cases:
                given = operands((elements,))
                cases[elements] = given, expected(*given).tobytes()
            given, right = cases[elements]
            began_s = time.perf_counter()
            gradient = client.compute(*given)
            seconds = time.perf_counter() - began_s
            print(json.dumps({"seconds": seconds, "is_right": gradient.tobytes() == right}), flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the medians of both ways, and their ratio."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.distances", description=__doc__)
    parser.add_argument("--elements", type=int, nargs="+", default=[2**10, 2**16, 2**20, 2**22])
    parser.add_argument("--rounds", type=int, default=21, help="calls of each way (default %(default)s)")
    parser.add_argument("--client", metavar="ADDRESS", help=argparse.SUPPRESS)
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.client:
        _serve_calls(given.client, given.way)
        return 0
    table = Table(title=f"float32, medians of {given.rounds} calls", title_justify="left")
    for heading in ("network", "elements", "direct ms", "gRPC's stream ms", "times as fast", "operands MB/s"):
        table.add_column(heading, justify="left" if heading == "network" else "right")
    for network in NETWORKS:
        for one in measure(network, given.elements, rounds=given.rounds):
            times = (f"{1000 * one.direct_s:.2f}", f"{1000 * one.rpc_s:.2f}", f"{one.rpc_s / one.direct_s:.2f}")
            rate = 3 * 4 * one.elements / one.direct_s / 1e6
            table.add_row(network.name, f"{one.elements:,}", *times, f"{rate:.0f}")
    Console(width=100).print(table)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
