from __future__ import annotations

import pytest

from mse_grad_client import MseGradClient
from mse_grad_client.stream import cygrpc_call
from support.client.awaited import CLIENTS


@pytest.fixture(params=["cygrpc", "threaded"])
def each_call(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Runs the test with both kinds of calls that carry a stream; returns the kind."""
    kind: str = request.param
    if kind == "threaded":
        monkeypatch.setattr(cygrpc_call, "_is_tested", lambda version: False)
    return kind


@pytest.fixture(params=list(CLIENTS.values()), ids=list(CLIENTS))
def client_type(request: pytest.FixtureRequest) -> type[MseGradClient]:
    """The blocking client, and the one with `await`."""
    chosen: type[MseGradClient] = request.param
    return chosen
