"""Memory that a server needs to stream one large gradient.

`PYTHONPATH=tests .venv/bin/python -m benchmarks.big_stream --gib 4`; the client needs twice that size.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mse_grad.formula import coefficient, gradient_into
from mse_grad.tensor import FLOAT32, Array, Reduction
from mse_grad_client import ClientOptions, MseGradClient
from support.resident import peak_bytes, reset_peak, resident_bytes
from support.server.backends import running_on

__all__ = ["GROWTH_ALLOWED_BYTES", "Cost", "cost_of_gradient"]

MIB, GIB = 2**20, 2**30
GROWTH_ALLOWED_BYTES = 256 * MIB
CHECKED_AT_ONCE = 2**22


@dataclass(frozen=True)
class Cost:
    """The cost of one gradient.

    Attributes:
        time_s: Duration of the call, in seconds.
        idle_bytes: Resident bytes of the server after a first small gradient.
        growth_bytes: Peak of its resident bytes above `idle_bytes` while it computed.
        wrong_elements: Elements whose bits differ from the formula's.
    """

    time_s: float
    idle_bytes: int
    growth_bytes: int
    wrong_elements: int


def cost_of_gradient(size_bytes: int, *, backend: str = "cpu") -> Cost:
    """Streams a float32 gradient of `size_bytes`, with a full dout, through a new server on `backend`."""
    elements = size_bytes // FLOAT32.itemsize_bytes
    row = np.arange(elements + 1, dtype=np.float32)
    predict, label, dout = row[:-1], row[1:], row[:-1]  # three operands as views of one array, which is in memory once
    options = ClientOptions(shared_memory=False)
    with running_on(backend) as server, MseGradClient(server.address, options=options) as client:
        client.compute(row[:1000], row[1:1001], row[:1000])
        pid = server.process.pid
        idle_bytes = resident_bytes(pid)
        reset_peak(pid)
        start = time.perf_counter()
        y = client.compute(predict, label, dout, "mean")
        time_s = time.perf_counter() - start
        growth_bytes = peak_bytes(pid) - idle_bytes
    return Cost(time_s, idle_bytes, growth_bytes, _wrong_elements(y, predict, label, dout))


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns 0 if every element is right and the server grew by at most 256 MiB."""
    parser = argparse.ArgumentParser(prog="big_stream", description=__doc__)
    parser.add_argument("--gib", type=float, default=4.0, help="size of the gradient in GiB (default %(default)s)")
    size_bytes = int(parser.parse_args(arguments).gib * GIB)
    cost = cost_of_gradient(size_bytes)
    print(
        f"gradient of {size_bytes / GIB:.2f} GiB in {cost.time_s:.1f} s, {4 * size_bytes / cost.time_s / 1e9:.2f} GB/s"
    )
    print(f"server: {cost.idle_bytes / MIB:.0f} MiB idle, at most {cost.growth_bytes / MIB:.0f} MiB more at work")
    print(f"elements with other bits than the formula: {cost.wrong_elements}")
    return 0 if cost.wrong_elements == 0 and cost.growth_bytes <= GROWTH_ALLOWED_BYTES else 1


def _wrong_elements(y: Array, predict: Array, label: Array, dout: Array) -> int:
    c = coefficient(Reduction.MEAN, y.size, FLOAT32)
    buffer = np.empty(min(CHECKED_AT_ONCE, y.size), np.float32)
    wrong = 0
    for start in range(0, y.size, CHECKED_AT_ONCE):
        part = slice(start, min(start + CHECKED_AT_ONCE, y.size))
        found, right = y[part], buffer[: part.stop - start]
        gradient_into(right, predict[part], label[part], dout[part], c=c, dtype=FLOAT32)
        wrong += int((found.view(np.uint32) != right.view(np.uint32)).sum())
    return wrong


if __name__ == "__main__":
    raise SystemExit(main())
