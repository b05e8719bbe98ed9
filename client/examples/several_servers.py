"""Several servers behind one client: under load one of them drains and another one is added, and no call fails.

`.venv/bin/python client/examples/several_servers.py` starts its own servers on free ports of this machine. It
needs the extra `server`.
"""

from __future__ import annotations

import re
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import numpy as np

from demo_server import DemoServer
from mse_grad_client import ClientOptions, MseGradClient

CALLS = 600
THREADS = 4
RECEIVED_BYTES = re.compile(r'^mse_grad_transferred_bytes_total\{direction="in".*\} (\S+)$', re.MULTILINE)


def received_bytes(server: DemoServer) -> float:
    """Returns the bytes of operands that `server` has received, by its own metrics."""
    with urllib.request.urlopen(server.metrics_url, timeout=10) as page:
        return sum(float(value) for value in RECEIVED_BYTES.findall(page.read().decode()))


def compute(client: MseGradClient, number: int) -> None:
    """Computes one gradient, of a size that depends on its number, and checks it."""
    predict = np.full((1 + number % 3, 10_000), 3.0, np.float32)
    gradient = client.compute(predict, np.ones_like(predict), 2.0, "sum", timeout_s=30)
    assert (gradient == 8.0).all()


def print_shares(client: MseGradClient, servers: Sequence[DemoServer]) -> None:
    """Prints the bytes that each server receives of some calls, once the client has found all."""
    while not all(received_bytes(server) for server in servers):
        compute(client, 0)
    before = [received_bytes(server) for server in servers]
    for number in range(CALLS):
        compute(client, number)
    for server, then in zip(servers, before, strict=True):
        print(f"  {server.address} received {(received_bytes(server) - then) / 1e6:.1f} MB")


def main() -> None:
    """Starts servers, and computes on all of them."""
    with ExitStack() as stack:
        first, second, third = (stack.enter_context(DemoServer()) for _ in range(3))
        # In place of DNS: the client looks its name up again when a server is lost, and every ten seconds.
        found = [first.address, second.address]
        options = ClientOptions(resolve=lambda host, port: found)
        with MseGradClient("dns:///gradients.example:50051", options=options) as client:
            print(f"{CALLS} calls to two servers:")
            print_shares(client, [first, second])

            print("a third one is added, and the first one drains under load:")
            with ThreadPoolExecutor(THREADS) as threads:
                calls = [threads.submit(compute, client, number) for number in range(CALLS)]
                found[:] = [second.address, third.address]
                first.stop()
                failed = sum(call.exception() is not None for call in calls)
            print(f"  {CALLS} calls, {failed} failed")
            assert not failed
            print_shares(client, [second, third])

        print("a list in place of a name, and nothing listens at the last address:")
        with MseGradClient([second.address, third.address, first.address]) as client:
            print_shares(client, [second, third])


if __name__ == "__main__":
    main()
