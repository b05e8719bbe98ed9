"""Cold start on simulated NPUs: the time until gradients are computed, and the memory of the processes.

`PYTHONPATH=tests .venv/bin/python -m benchmarks.cold_start --devices 8`; needs make and g++, for the simulator.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from support.resident import proportional_bytes, resident_bytes
from support.server.backends import ascend_flags
from support.server.host_process import compute, pid_of
from support.server.server_process import running_server

__all__ = ["Cost", "cost_of_start"]

MIB = 2**20


@dataclass(frozen=True)
class Cost:
    """The cost of a start, from the command to the first gradient of a client.

    Attributes:
        first_s: Time until the first NPU serves, in seconds.
        all_s: Time until all NPUs serve.
        supervisor_bytes: Resident bytes of the supervisor; 0 without one.
        worker_bytes: Resident bytes of each process that computes.
        sum_bytes: Resident bytes of all processes together; a page that several of them share counts once.
    """

    first_s: float
    all_s: float
    supervisor_bytes: int
    worker_bytes: tuple[int, ...]
    sum_bytes: int


def cost_of_start(*numbers: int) -> Cost:
    """Starts a server with a worker for each NPU, or without a supervisor if no number is given."""
    flags = [*ascend_flags(), *(["--devices", ",".join(map(str, numbers)), "--ready-when", "any"] if numbers else [])]
    environment = {"ASCEND_SIMULATOR_DEVICES": str(max(numbers, default=0) + 1)}
    start = time.monotonic()
    with running_server(*flags, environment=environment) as server:
        compute(server.address)
        first_s = time.monotonic() - start
        all_s = first_s
        if numbers:
            for number in numbers:
                server.wait_for_event("ready", worker=f"npu:{number}")
            all_s = time.monotonic() - start
        workers = [pid_of(server, f"npu:{number}") for number in numbers]
        pids = {server.process.pid, *workers}
        return Cost(
            first_s,
            all_s,
            resident_bytes(server.process.pid) if numbers else 0,
            tuple(resident_bytes(pid) for pid in workers or pids),
            sum(proportional_bytes(pid) for pid in pids),
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Starts one process, one worker and several workers, and prints the cost of each start."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cold_start", description=__doc__)
    parser.add_argument("--devices", type=int, default=8, help="simulated NPUs (default %(default)s)")
    devices = parser.parse_args(arguments).devices
    table = Table(title="from the command to the first gradient; resident memory", title_justify="left")
    for heading in ("", "first NPU s", "all NPUs s", "supervisor MiB", "a worker MiB", "together MiB"):
        table.add_column(heading, justify="left" if not heading else "right")
    for name, numbers in (
        ("1 NPU, no supervisor", ()),
        ("1 NPU", (0,)),
        (f"{devices} NPUs", tuple(range(devices))),
    ):
        cost = cost_of_start(*numbers)
        table.add_row(
            name,
            f"{cost.first_s:.2f}",
            f"{cost.all_s:.2f}",
            f"{cost.supervisor_bytes / MIB:.0f}" if cost.supervisor_bytes else "",
            f"{min(cost.worker_bytes) / MIB:.0f} to {max(cost.worker_bytes) / MIB:.0f}",
            f"{cost.sum_bytes / MIB:.0f}",
        )
    Console(width=100).print(table)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
