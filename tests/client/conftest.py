from __future__ import annotations

import pytest

from mse_grad_client import call


@pytest.fixture(params=["direct", "threaded"])
def each_call(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Runs the test over both ways that the client has to hold an RPC; returns which."""
    kind: str = request.param
    if kind == "threaded":
        monkeypatch.setattr(call, "cygrpc", None)
    return kind
