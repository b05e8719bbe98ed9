"""Training loop: fits a line by gradient descent. The server computes the gradient of the loss, the rest runs here.

`make serve` in another terminal, then `.venv/bin/python client/examples/training.py`.
"""

from __future__ import annotations

import sys

import numpy as np

from mse_grad_client import MseGradClient

STEPS = 200
LEARNING_RATE = 0.3


def main(address: str = "127.0.0.1:50051") -> None:
    """Trains with the server at `address`; raises AssertionError if the line was not found."""
    generator = np.random.default_rng(7)
    x = generator.uniform(-1, 1, 10_000).astype(np.float32)
    label = 3 * x - 2 + 0.1 * generator.standard_normal(x.size).astype(np.float32)
    slope = intercept = 0.0
    gradient = np.empty_like(x)
    with MseGradClient(address) as client:
        for _ in range(STEPS):
            predict = np.float32(slope) * x + np.float32(intercept)
            client.compute(predict, label, 1.0, "mean", out=gradient)  # d loss / d predict, into the same array
            slope -= LEARNING_RATE * float(gradient @ x)
            intercept -= LEARNING_RATE * float(gradient.sum())
    print(f"label = 3 x - 2 and noise; found {slope:.2f} x {intercept:+.2f}")
    assert abs(slope - 3) < 0.02
    assert abs(intercept + 2) < 0.02


if __name__ == "__main__":
    main(*sys.argv[1:])
