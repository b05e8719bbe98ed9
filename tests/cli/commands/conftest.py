"""A server that the tests of one module share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from support.server.server_process import ServerProcess, running_server


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    with running_server() as process:
        yield process
