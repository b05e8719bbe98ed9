"""What a greedy client costs another one: the latency of small gradients beside many streams of large ones.

`PYTHONPATH=tests .venv/bin/python -m benchmarks.fairness`. Two clients with a token each share a server. One computes
gradients of 1K elements, one after another. The other has one stream, or 64, each of which always has a gradient of 64K
elements under way. The clients are separate processes, so on a machine with few cores the first also waits for a core:
the last row, in which the 64 streams go to another server on the machine, shows how long.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np

from mse_grad_client import ClientOptions, MseGradClient
from support.server.server_process import running_server
from support.values import operands

__all__ = ["GREEDY", "MODEST", "greedy_streams", "latencies_s", "token_file"]

MODEST, GREEDY = "the-token-of-a-modest-client", "the-token-of-a-greedy-client"
STREAMS = 64
SMALL, LARGE = 1024, 64 * 1024
_WARM_UP_S = 0.5


def token_file(folder: str) -> str:
    """Returns a new file of both tokens."""
    file = Path(folder, "tokens")
    file.write_text(f"{MODEST} name=modest\n{GREEDY} name=greedy\n", encoding="ascii")
    return str(file)


def _options(token: str) -> ClientOptions:
    return ClientOptions(token=token, shared_memory=False, direct=False, timeout_s=60)


@contextmanager
def greedy_streams(address: str, streams: int) -> Iterator[None]:
    """Keeps `streams` streams of the greedy client busy within the `with`, from a process of their own."""
    command = [sys.executable, "-m", "benchmarks.fairness", "--greedy", address, str(streams)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "busy\n"
        yield
    finally:
        process.stdin.close()
        process.wait(timeout=120)
        process.stdout.close()
    assert process.returncode == 0


def _be_greedy(address: str, streams: int) -> int:
    """Computes over as many streams, each a client of its own, until standard input ends."""
    is_over = threading.Event()
    busy = threading.Barrier(streams + 1)
    predict, label, dout = operands((LARGE,))

    def compute(client: MseGradClient) -> None:
        out = np.empty_like(predict)
        client.compute(predict, label, dout, out=out)
        busy.wait()
        while not is_over.is_set():
            client.compute(predict, label, dout, out=out)

    with ExitStack() as stack:
        clients = [stack.enter_context(MseGradClient(address, options=_options(GREEDY))) for _ in range(streams)]
        threads = [threading.Thread(target=compute, args=(client,)) for client in clients]
        for thread in threads:
            thread.start()
        busy.wait()
        print("busy", flush=True)
        sys.stdin.read()
        is_over.set()
        for thread in threads:
            thread.join()
    return 0


def latencies_s(address: str, seconds: float) -> list[float]:
    """Returns the latencies of the modest client's gradients."""
    given = operands((SMALL,))
    found = []
    with MseGradClient(address, options=_options(MODEST)) as client:
        warm_s = time.monotonic() + _WARM_UP_S
        while (began_s := time.monotonic()) < warm_s + seconds:
            client.compute(*given)
            if began_s >= warm_s:
                found.append(time.monotonic() - began_s)
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints a table."""
    parser = argparse.ArgumentParser(prog="fairness", description=__doc__)
    parser.add_argument("--greedy", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each measurement")
    given = parser.parse_args(arguments)
    if given.greedy:
        return _be_greedy(given.greedy[0], int(given.greedy[1]))
    rows: dict[str, list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        flags = ("--token-file", token_file(folder))
        with running_server(*flags, metrics_listen="none") as server, running_server(metrics_listen="none") as other:
            beside = {
                "nothing": (server, 0),
                "1 stream": (server, 1),
                f"{STREAMS} streams": (server, STREAMS),
                f"{STREAMS} streams of another server": (other, STREAMS),
            }
            for _ in range(given.rounds):
                for row, (loaded, streams) in beside.items():
                    with ExitStack() as stack:
                        if streams:
                            stack.enter_context(greedy_streams(loaded.address, streams))
                        found = latencies_s(server.address, given.seconds)
                    rows.setdefault(row, []).append((float(np.percentile(found, 50)), float(np.percentile(found, 99))))
    print(f"{'beside':28} {'p50 ms':>7} {'p99 ms':>7}")
    for row, percentiles in rows.items():
        p50_s, p99_s = (statistics.median(each[at] for each in percentiles) for at in (0, 1))
        print(f"{row:28} {1e3 * p50_s:7.2f} {1e3 * p99_s:7.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
