"""Errors of the SDK: the class to catch, the reason to switch on, the message to show.

`make serve` in another terminal, then `.venv/bin/python client/examples/errors.py`.
"""

from __future__ import annotations

import sys

import numpy as np

from mse_grad_client import InvalidArgument, MseGradClient, MseGradError, ResourceExhausted


def main(address: str = "127.0.0.1:50051") -> None:
    """Sends wrong requests to the server at `address`."""
    x = np.ones((2, 3), dtype=np.float32)
    with MseGradClient(address) as client:
        try:
            client.compute(x, x.T, 1.0)
        except InvalidArgument as error:  # a ValueError too
            show(error)
        try:
            client.compute(x, x, 1.0, "average")
        except InvalidArgument as error:
            show(error)
        large = np.ones(2**23, dtype=np.float32)  # 32 MiB; one message cannot hold two of them
        try:
            client.compute_unary(large, large, 1.0)
        except ResourceExhausted as error:
            show(error)
        assert client.compute(x, x, 1.0).shape == (2, 3)  # the connection still works


def show(error: MseGradError) -> None:
    """Prints the attributes of an error."""
    reason = error.reason.value if error.reason else "no reason"
    print(f"{type(error).__name__}, {error.code.name}, {reason}\n  {error.message}")


if __name__ == "__main__":
    main(*sys.argv[1:])
