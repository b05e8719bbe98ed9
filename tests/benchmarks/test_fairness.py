from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.fairness import greedy_streams, latencies_s, token_file
from support.server.server_process import running_server


@pytest.mark.slow
def test_a_modest_client_is_answered_beside_64_streams(tmp_path: Path) -> None:
    flags = ("--token-file", token_file(str(tmp_path)))
    with running_server(*flags, metrics_listen="none") as server, greedy_streams(server.address, 64):
        assert len(latencies_s(server.address, 1.0)) > 10
