"""Fake server: a test of your own code, without sockets, servers or devices.

`.venv/bin/python client/examples/fake_server.py`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mse_grad.reasons import Reason
from mse_grad_client import MseGradClient, RetryOptions, Unavailable
from mse_grad_client.testing import FakeServer

Array = NDArray[Any]


def step(client: MseGradClient, weights: Array, target: Array, *, number: int) -> Array:
    """The code under test: one step of gradient descent."""
    gradient = client.compute(weights, target, 1.0, "sum", request_id=f"step-{number}")
    return weights - np.float32(0.25) * gradient


def test_a_step_survives_a_busy_server() -> None:
    """A request that the server refuses as busy is sent again."""
    with FakeServer() as server, server.client() as client:
        server.refuse(Reason.SERVER_BUSY, times=2, retry_delay_s=0.01)
        weights = step(client, np.zeros(3, np.float32), np.ones(3, np.float32), number=1)
        assert weights.tolist() == [0.5, 0.5, 0.5]
        assert [request.state for request in server.requests] == ["failed", "failed", "answered"]
        assert {request.request_id for request in server.requests} == {"step-1"}


def test_a_step_reports_a_server_that_drains() -> None:
    """Without retries the caller sees the error."""
    with FakeServer() as server, server.client(retry=RetryOptions(max_attempts=1)) as client:
        server.drain()
        error: Unavailable | None = None
        try:
            step(client, np.zeros(3, np.float32), np.ones(3, np.float32), number=1)
        except Unavailable as raised:
            error = raised
        assert error is not None
        assert error.reason is Reason.DRAINING


if __name__ == "__main__":  # or `pytest fake_server.py`
    for test in (test_a_step_survives_a_busy_server, test_a_step_reports_a_server_that_drains):
        test()
        print(f"{test.__name__}: passed")
