"""A host of several simulated NPUs, served by real processes."""

from __future__ import annotations

import re
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mse_grad_client import MseGradClient
from support.npu.runtime import Accounts
from support.npu.simulator import build
from support.server.server_process import ServerProcess, running_server
from support.tools import require_program
from support.values import expected, operands
from support.waiting import PATIENCE_S

__all__ = ["AscendHost", "compute", "compute_until", "running_host"]

_BLOCKS = re.compile(r'mse_grad_device_blocks_total\{worker="npu:(\d+)"\} ([0-9.e+]+)')


@dataclass(frozen=True)
class AscendHost:
    """A server with a worker for each of its simulated NPUs.

    Attributes:
        server: Its process, ready to serve.
        devices: How many NPUs it has, numbered from 0.
    """

    server: ServerProcess
    devices: int
    _accounts: Path

    def blocks(self) -> list[float]:
        """Returns the number of blocks that each NPU has computed since its worker started."""
        with urllib.request.urlopen(f"http://{self.server.metrics_address}/metrics", timeout=PATIENCE_S) as answer:
            found = {int(device): float(count) for device, count in _BLOCKS.findall(answer.read().decode())}
        return [found.get(device, 0.0) for device in range(self.devices)]

    def accounts(self) -> list[Accounts]:
        """Returns the accounts of the runtimes in the workers that have ended."""
        return [Accounts.parse(line) for line in self._accounts.read_text().splitlines()]

    def pid_of(self, device: int) -> int:
        """Returns the process id of an NPU's worker."""
        started = [event for event in self.server.events if event["event"] == "worker_started"]
        return int([event for event in started if event["worker"] == f"npu:{device}"][-1]["pid"])


@contextmanager
def running_host(folder: Path, *, devices: int, kernel_us: int) -> Iterator[AscendHost]:
    """Runs a host on which a launch takes `kernel_us` of real time; writes its files to `folder`."""
    require_program("make")
    require_program("g++")
    libraries = build()
    accounts = folder / "accounts"
    variables = {
        "ASCEND_SIMULATOR_ACCOUNTS": str(accounts),
        "ASCEND_SIMULATOR_DEVICES": str(devices),
        "ASCEND_SIMULATOR_KERNEL_US": str(kernel_us),
        "ASCEND_SIMULATOR_PACE": "1",
    }
    flags = ["--backend", "ascend", "--ascend-runtime-folder", str(libraries)]
    flags += ["--ascend-op-library", str(libraries / "libcust_opapi.so")]
    flags += ["--devices", f"0-{devices - 1}" if devices > 1 else "0", "--ready-when", "all"]
    with running_server(*flags, environment=variables, ready_timeout_s=PATIENCE_S) as server:
        yield AscendHost(server, devices, accounts)


def compute(client: MseGradClient, seed: int) -> None:
    """Computes one gradient and compares every bit with the formula."""
    given = operands((1000,), seed=seed)
    assert client.compute(*given, timeout_s=PATIENCE_S).tobytes() == expected(*given).tobytes()


def compute_until(client: MseGradClient, condition: Callable[[], bool]) -> None:
    """Computes one gradient after the other until `condition` is true."""
    give_up_s = time.monotonic() + PATIENCE_S
    seed = 0
    while not condition():
        assert time.monotonic() < give_up_s, "the condition did not become true"
        compute(client, seed)
        seed += 1
