"""Versions of grpcio that the client uses below their public surface."""

from __future__ import annotations

from collections.abc import Iterator

import grpc
import pytest

from mse_grad_client.stream import cygrpc_call
from mse_grad_client.stream.call import ThreadedCall
from mse_grad_client.stream.cygrpc_call import CygrpcCall, open_call


@pytest.fixture(autouse=True)
def fresh_log() -> Iterator[None]:
    """Lets each test see the line that is logged once per process."""
    cygrpc_call._is_tested.cache_clear()
    yield
    cygrpc_call._is_tested.cache_clear()


@pytest.mark.parametrize(("version", "is_tested"), [("1.76.0", True), ("1.99.2", False), ("2.0.0", False)])
def test_a_version_that_was_not_tested_is_used_through_its_public_surface_and_logged_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, version: str, is_tested: bool
) -> None:
    monkeypatch.setattr(grpc, "__version__", version)
    with caplog.at_level("INFO", logger="mse_grad_client"), grpc.insecure_channel("127.0.0.1:1") as channel:
        for _ in range(2):
            talk = open_call(channel, "/test.Test/Talk", lambda: None)
            assert type(talk) is (CygrpcCall if is_tested else ThreadedCall)
            with pytest.raises(grpc.RpcError):
                next(talk)
            talk.cancel()
    assert [f"grpcio {version}" in line for line in caplog.messages] == ([] if is_tested else [True])


def test_the_installed_version_was_tested() -> None:
    assert cygrpc_call._is_tested(grpc.__version__)
