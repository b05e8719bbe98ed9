"""Fixtures of the tests with real processes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from mse_grad_client import MseGradClient
from support.server import ServerProcess, running_server


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    """A server that the tests of one module share; it must end with exit code 0."""
    with running_server() as process:
        yield process


@pytest.fixture
def client(server: ServerProcess) -> Iterator[MseGradClient]:
    with MseGradClient(server.address) as connected:
        yield connected
