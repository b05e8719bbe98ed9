"""Shared memory: a server on the same Linux host computes in the client's arrays, without a copy.

`make serve` in another terminal, then `.venv/bin/python client/examples/shared_memory.py`.
"""

from __future__ import annotations

import statistics
import sys
import time

import numpy as np

from mse_grad.tensor import Array
from mse_grad_client import ClientOptions, MseGradClient

SHAPE = (1024, 1024)
CALLS = 20


def main(address: str = "127.0.0.1:50051") -> None:
    """Computes on the server at `address`, which may be on another host: then every array is copied."""
    random = np.random.default_rng(5)
    predict, label, dout = (random.standard_normal(SHAPE).astype(np.float32) for _ in range(3))
    operands = predict, label, dout
    with MseGradClient(address) as client:
        print(f"transport: {client.wait_ready(timeout_s=10).transport}")
        shared = client.empty(SHAPE), client.empty(SHAPE), client.empty(SHAPE)
        for array, operand in zip(shared, operands, strict=True):
            array[...] = operand  # a program would compute its operands there in the first place
        in_place = median_ms(client, shared, client.empty(SHAPE))
        copied = median_ms(client, operands, np.empty(SHAPE, np.float32))
        gradient = client.compute(*shared)
    with MseGradClient(address, options=ClientOptions(shared_memory=False)) as client:
        streamed = median_ms(client, operands, np.empty(SHAPE, np.float32))
        same = gradient.tobytes() == client.compute(*operands).tobytes()
    print(f"arrays of client.empty: {in_place:.2f} ms")
    print(f"other arrays: {copied:.2f} ms")
    print(f"without shared memory: {streamed:.2f} ms")
    print("the gradients have the same bits" if same else "the gradients differ")
    assert same


def median_ms(client: MseGradClient, operands: tuple[Array, Array, Array], out: Array) -> float:
    """Returns the median time of a call in milliseconds."""
    times_s = []
    for _ in range(CALLS):
        start = time.perf_counter()
        client.compute(*operands, out=out)
        times_s.append(time.perf_counter() - start)
    return 1000 * statistics.median(times_s)


if __name__ == "__main__":
    main(*sys.argv[1:])
