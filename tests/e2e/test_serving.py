"""One server process as other processes see it, on each backend."""

from __future__ import annotations

import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mse_grad.reasons import Reason
from mse_grad_client import ClientOptions, MseGradClient, ResourceExhausted
from support.server.backends import running_on
from support.server.server_process import ServerProcess, running_server
from support.values import expected, operands

CLIENT_PROGRAM = """
import sys
import numpy as np
from mse_grad_client import MseGradClient

with MseGradClient(sys.argv[1]) as client:
    client.wait_ready(30)
    operands = np.load(sys.argv[2])
    np.save(sys.argv[3], client.compute(operands[0], operands[1], operands[2], "mean"))
assert not any(name.startswith("mse_grad_server") for name in sys.modules), "the SDK imports the server"
"""

NO_POSIX_PROGRAM = """
import os
import sys

for module in ("fcntl", "grp", "pwd", "resource", "syslog", "termios"):
    sys.modules[module] = None
for function in ("fork", "geteuid", "memfd_create", "register_at_fork", "sched_getaffinity"):
    delattr(os, function)

import numpy as np
from mse_grad_client import MseGradClient

x = np.arange(1000, dtype=np.float32)
with MseGradClient(sys.argv[1]) as client:
    assert (client.compute(x, x + 1, 0.5, "sum") == -1).all()
"""


def test_a_client_process_computes_against_a_server_process(server_of_backend: ServerProcess, tmp_path: Path) -> None:
    given = operands((1000,))
    np.save(tmp_path / "operands.npy", np.stack(given))
    command = [sys.executable, "-c", CLIENT_PROGRAM, server_of_backend.address]
    subprocess.run([*command, tmp_path / "operands.npy", tmp_path / "y.npy"], check=True, timeout=60)
    assert np.load(tmp_path / "y.npy").tobytes() == expected(*given).tobytes()


def test_the_sdk_streams_without_posix_modules(server: ServerProcess) -> None:
    subprocess.run([sys.executable, "-c", NO_POSIX_PROGRAM, server.address], check=True, timeout=60)


def test_a_unix_socket_serves_and_is_gone_afterwards(backend: str, tmp_path: Path) -> None:
    given = operands((1000,))
    path = tmp_path / "mse-grad.sock"
    with running_on(backend, listen=f"unix:{path}") as server:
        assert server.address == f"unix:{path}"
        with MseGradClient(server.address) as client:
            assert client.compute(*given).tobytes() == expected(*given).tobytes()
    assert not path.exists()


def test_the_log_the_info_and_the_metrics_name_the_same_kernel(
    server_of_backend: ServerProcess, client: MseGradClient
) -> None:
    ready = server_of_backend.event("ready")
    info = client.server_info()
    with urllib.request.urlopen(f"http://{server_of_backend.metrics_address}/metrics", timeout=30) as answer:
        metrics = answer.read().decode()
    assert (info.backend, info.device) == (ready["backend"], ready["device"])
    assert info.ready
    assert info.numerics.verified
    assert f'device="{info.device}"' in metrics


@pytest.mark.parametrize(
    ("mib", "limit_and_way"),
    [(65, r"takes at most 67108864 .*StreamGradients takes"), (400, r"larger than max .*compute sends")],
    ids=["past the server's limit", "past the limit of gRPC below it"],
)
def test_one_message_too_large_names_a_limit_and_the_way_around(
    client: MseGradClient, mib: int, limit_and_way: str
) -> None:
    halves = np.ones((2, mib * 2**20 // 8), dtype=np.float32)
    with pytest.raises(ResourceExhausted, match=limit_and_way) as caught:
        client.compute_unary(halves[0], halves[1], 1.0)
    assert caught.value.reason is Reason.MESSAGE_TOO_LARGE
    assert (client.compute(halves[0], halves[1], 1.0) == 0).all()


@pytest.mark.parametrize("ways", [{}, {"shared_memory": False}, {"shared_memory": False, "direct": False}])
def test_the_smallest_messages_that_a_server_may_ask_for_carry_every_request(ways: dict[str, Any]) -> None:
    with (
        running_server("--max-stream-message-bytes", "64KiB", "--chunk-bytes", "16KiB") as server,
        MseGradClient(server.address, options=ClientOptions(**ways)) as client,
    ):
        client.server_info()  # now a direct connection stands
        given = [operands((elements,)) for elements in (6000, 20_000, *[250] * 300)]
        for one, y in zip(given, [client.submit(*one) for one in given], strict=True):
            assert y.result().tobytes() == expected(*one).tobytes()
