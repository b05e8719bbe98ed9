"""Quick start: one gradient in each dtype.

`make serve` in another terminal, then `.venv/bin/python client/examples/quickstart.py`.
"""

from __future__ import annotations

import sys

import ml_dtypes
import numpy as np

from mse_grad_client import MseGradClient


def main(address: str = "127.0.0.1:50051") -> None:
    """Computes on the server at `address`."""
    predict = np.array([[0.5, 2.0, -1.0], [3.0, 0.25, 8.0]], dtype=np.float32)
    label = np.array([[1.0, 2.0, 1.0], [2.5, 0.0, -8.0]], dtype=np.float32)
    with MseGradClient(address) as client:
        info = client.wait_ready(timeout_s=10)
        print(f"{address}: mse-grad {info.version}, {info.backend} ({info.device})")
        for dtype in (np.float32, np.float16, ml_dtypes.bfloat16):
            gradient = client.compute(predict.astype(dtype), label.astype(dtype), 1.0, "mean")
            print(f"{gradient.dtype}: {gradient.astype(np.float32).tolist()}")


if __name__ == "__main__":
    main(*sys.argv[1:])
