"""Many small gradients: one call for all of them, instead of one call each.

`make serve` in another terminal, then `.venv/bin/python client/examples/many_small_gradients.py`.
"""

from __future__ import annotations

import sys
import time

import numpy as np

from mse_grad_client import MseGradClient, MseGradError

ITEMS = 2000
ELEMENTS = 64


def main(address: str = "127.0.0.1:50051") -> None:
    """Computes on the server at `address`."""
    random = np.random.default_rng(3)
    predict, label = random.standard_normal((2, ITEMS, ELEMENTS)).astype(np.float32)
    with MseGradClient(address) as client:
        client.wait_ready(timeout_s=10)

        start = time.perf_counter()
        one_by_one = [client.compute(x, t, 1.0) for x, t in zip(predict, label, strict=True)]
        middle = time.perf_counter()
        together = client.compute_many((x, t, 1.0) for x, t in zip(predict, label, strict=True))
        end = time.perf_counter()
        print(f"{ITEMS} calls of compute: {middle - start:.3f} s; one call of compute_many: {end - middle:.3f} s")

        same = all(a.tobytes() == b.tobytes() for a, b in zip(one_by_one, together, strict=True))
        print("the gradients have the same bits" if same else "the gradients differ")
        assert same

        # Shapes may differ, and one wrong item need not cost the others.
        items = [(predict[0], label[0], 1.0), (predict[1], label[1, :5], 1.0), (predict[2, :5], label[2, :5], 1.0)]
        for number, result in enumerate(client.compute_many(items, return_errors=True)):
            if isinstance(result, MseGradError):
                print(f"item {number}: {result.message}")
            else:
                print(f"item {number}: a gradient of shape {result.shape}")


if __name__ == "__main__":
    main(*sys.argv[1:])
