"""Cost of Ray Serve: the same calls to a server and through Ray's ingress, in turn, on one machine.

`python -m support.deploy.ray_cost` runs in an environment with Ray; `benchmarks.ray_serve` makes it.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any

from mse_grad_client import ClientOptions, MseGradClient
from support.deploy.ray_cluster import DIRECT, HEAD, cluster, direct_server, serving, until_answers
from support.values import expected, operands

_SIZES = {"1K": 2**10, "64K": 2**16, "1M": 2**20, "4M": 2**22}
_ROUNDS = 15
# Calls of one path in one round take at least this long together.
_ROUND_S = 0.05
_MOST_UNARY_BYTES = 2**30


def main() -> None:
    """Prints the medians of all rounds in milliseconds a call."""
    with direct_server(), cluster(nodes=1), serving(), ExitStack() as opened:
        until_answers(DIRECT)
        until_answers(HEAD)

        def client(address: str, *, shared_memory: bool = False) -> MseGradClient:
            options = ClientOptions(shared_memory=shared_memory, direct=False, max_unary_bytes=_MOST_UNARY_BYTES)
            return opened.enter_context(MseGradClient(address, options=options))

        paths: dict[str, Callable[..., Any]] = {
            "unary, direct": client(DIRECT).compute_unary,
            "unary, Ray": client(HEAD).compute_unary,
            "stream, direct": client(DIRECT).compute,
            "stream, Ray": client(HEAD).compute,
            "shared memory, direct": client(DIRECT, shared_memory=True).compute,
        }
        print("| elements | " + " | ".join(paths) + " |", flush=True)
        for name, n in _SIZES.items():
            medians = _medians(paths, n)
            print(f"| {name} | " + " | ".join(f"{medians[path]:.2f}" for path in paths) + " |", flush=True)


def _medians(paths: dict[str, Callable[..., Any]], n: int) -> dict[str, float]:
    case = operands((n,))
    right = expected(*case).tobytes()
    times: dict[str, list[float]] = {path: [] for path in paths}
    for path, compute in paths.items():
        assert compute(*case).tobytes() == right, path
    for _ in range(_ROUNDS):
        for path, compute in paths.items():
            times[path].append(_time_ms(partial(compute, *case)))
    return {path: statistics.median(measured) for path, measured in times.items()}


def _time_ms(call: Callable[[], object]) -> float:
    began_s, calls = time.perf_counter(), 0
    while (now_s := time.perf_counter()) < began_s + _ROUND_S or not calls:
        call()
        calls += 1
    return 1000 * (now_s - began_s) / calls


if __name__ == "__main__":
    main()
