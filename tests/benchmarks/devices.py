"""Speed-up of one client from several simulated NPUs over one.

`PYTHONPATH=tests .venv/bin/python -m benchmarks.devices --devices 8`; needs make and g++, for the simulator.
"""

from __future__ import annotations

import argparse
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mse_grad_client import MseGradClient
from support.npu.host import compute_until, running_host
from support.values import operands

__all__ = ["gradients_per_s"]

CALLERS_PER_DEVICE = 4


def gradients_per_s(devices: int, *, kernel_us: int, duration_s: float) -> float:
    """Returns how many gradients of 1000 elements a second a client of many threads gets."""
    with (
        tempfile.TemporaryDirectory() as folder,
        running_host(Path(folder), devices=devices, kernel_us=kernel_us) as host,
        MseGradClient(host.server.address) as client,
        ThreadPoolExecutor(devices * CALLERS_PER_DEVICE) as threads,
    ):
        idle = host.blocks()
        compute_until(client, lambda: all(now > then for now, then in zip(host.blocks(), idle, strict=True)))
        stop = threading.Event()
        given = operands((1000,))

        def keep_computing() -> int:
            done = 0
            while not stop.is_set():
                client.compute(*given)
                done += 1
            return done

        start = time.perf_counter()
        counts = [threads.submit(keep_computing) for _ in range(devices * CALLERS_PER_DEVICE)]
        time.sleep(duration_s)
        stop.set()
        done = sum(count.result() for count in counts)
        return done / (time.perf_counter() - start)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures one NPU and then several, and prints the ratio."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.devices", description=__doc__)
    parser.add_argument("--devices", type=int, default=8, help="simulated NPUs (default %(default)s)")
    parser.add_argument("--kernel-us", type=int, default=20_000, help="duration of a launch (default %(default)s)")
    parser.add_argument("--duration-s", type=float, default=5.0, help="of each measurement (default %(default)s)")
    given = parser.parse_args(arguments)
    one, several = (
        gradients_per_s(devices, kernel_us=given.kernel_us, duration_s=given.duration_s)
        for devices in (1, given.devices)
    )
    print(f"1 NPU: {one:.0f} gradients/s; {given.devices} NPUs: {several:.0f} gradients/s; ratio {several / one:.2f}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
