"""Clients in another network namespace, as in another pod of the same node, which reach a socket by its file alone."""

from __future__ import annotations

import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.same_host.namespaces import require_network_namespaces
from support.server.server_process import running_server

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="network namespaces need Linux")

CLIENT_TIMEOUT_S = 60
CLIENT = """
import sys
import numpy as np
from mse_grad_client import MseGradClient
with MseGradClient(sys.argv[1]) as client:
    operands = [np.full(200_000, value, np.float32) for value in (3.0, 1.0, 2.0)]
    y = client.compute(*operands, reduction="sum")
    assert (y == 8.0).all()
    print(client.server_info().transport)
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a short path, as the path of a socket must be."""
    with tempfile.TemporaryDirectory(prefix="mse", dir="/tmp") as name:
        yield Path(name)


def transport_of_client(address: str, *prefix: str) -> str:
    """Returns the transport that a client in another network namespace reports; `prefix` starts its process."""
    unshare = require_network_namespaces()
    ran = subprocess.run(
        [unshare, "--net", *prefix, sys.executable, "-c", CLIENT, address],
        capture_output=True,
        text=True,
        check=False,
        timeout=CLIENT_TIMEOUT_S,
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.strip()


def test_a_client_in_another_network_namespace_shares_memory_through_the_file(folder: Path) -> None:
    (folder / "there").mkdir()
    (folder / "here").symlink_to(folder / "there")  # the client may have mounted the folder under another name
    with running_server("--socket-mode", "660", listen=f"unix:{folder}/there/s.sock"):
        for name in ("s.sock", "s.sock.memory"):
            assert stat.S_IMODE((folder / "there" / name).stat().st_mode) == 0o660
        assert transport_of_client(f"unix:{folder}/here/s.sock") == "shared_memory"
    assert list((folder / "there").iterdir()) == []


def test_without_the_file_gradients_go_over_the_stream(folder: Path) -> None:
    with running_server(listen=f"unix:{folder}/s.sock"):
        (folder / "s.sock.memory").unlink()
        assert transport_of_client(f"unix:{folder}/s.sock") == "stream"


def test_a_file_that_a_killed_server_left_is_replaced(folder: Path) -> None:
    address = f"unix:{folder}/s.sock"
    with running_server(listen=address) as killed:
        killed.kill()
    assert (folder / "s.sock.memory").exists()
    with running_server(listen=address):
        assert transport_of_client(address) == "shared_memory"


@pytest.mark.slow
def test_workers_offer_their_own_files(folder: Path) -> None:
    with running_server("--workers", "2", "--ready-when", "all", listen=f"unix:{folder}/s.sock"):
        assert {"cpu-0.sock.memory", "cpu-1.sock.memory"} <= {file.name for file in folder.iterdir()}
        assert transport_of_client(f"unix:{folder}/s.sock") == "shared_memory"
