"""One large gradient on several servers, each slowed by a setting of its simulated NPU."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import numpy as np
import pytest

from mse_grad_client import MseGradClient
from support.server.backends import ascend_flags
from support.server.server_process import ServerProcess, running_server
from support.values import Operands, expected, operands
from support.waiting import PATIENCE_S, holds_at_some_pace, wait_until

pytestmark = pytest.mark.slow

SERVERS = 3
ELEMENTS = 12 * 2**20  # 12 parts
LAUNCH_US = 40_000


@contextmanager
def slow_servers(pace: int) -> Iterator[list[ServerProcess]]:
    """Runs servers whose NPU takes `pace` times 40 ms for each block."""
    slow = {"ASCEND_SIMULATOR_KERNEL_US": str(LAUNCH_US * pace), "ASCEND_SIMULATOR_PACE": "1"}
    with ExitStack() as stack:
        yield [stack.enter_context(running_server(*ascend_flags(), environment=slow)) for _ in range(SERVERS)]


def use_all(client: MseGradClient, servers: list[ServerProcess], given: Operands) -> None:
    """Computes until the client has found all servers."""
    predict, label, dout = (each[:1000] for each in given)
    wait_until(
        lambda: (
            client.compute(predict, label, dout) is not None and len(client._transport._session.pool.in_use) == SERVERS
        )
    )


def seconds(client: MseGradClient, given: Operands, right: bytes, *, split: bool) -> float:
    """Returns the shortest time of three calls, each with the right bits."""
    times_s = []
    out = np.empty_like(given[0])
    for _ in range(3):
        began_s = time.monotonic()
        client.compute(*given, out=out, split=split, timeout_s=PATIENCE_S)
        times_s.append(time.monotonic() - began_s)
        assert out.tobytes() == right
    return min(times_s)


def test_several_servers_compute_one_gradient_faster_and_with_the_same_bits(
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = operands((ELEMENTS,))
    right = expected(*given).tobytes()

    def is_faster(pace: int) -> bool:
        launch_ms = LAUNCH_US * pace / 1000
        with slow_servers(pace) as servers, MseGradClient([server.address for server in servers]) as client:
            use_all(client, servers, given)
            whole_s, parts_s = (seconds(client, given, right, split=split) for split in (False, True))
        with capsys.disabled():
            print(f"\n48 MiB, {launch_ms:.0f} ms a block: {1000 * whole_s:.0f} ms by one server,", end=" ")
            print(f"{1000 * parts_s:.0f} ms by {SERVERS}, {whole_s / parts_s:.1f} times as fast")
        return whole_s > 2 * parts_s

    assert holds_at_some_pace(is_faster)


def test_parts_of_a_server_that_dies_are_computed_by_the_others() -> None:
    given = operands((ELEMENTS,))
    right = expected(*given).tobytes()
    with slow_servers(1) as servers, MseGradClient([server.address for server in servers]) as client:
        use_all(client, servers, given)
        died = threading.Thread(target=servers[1].kill)

        def connection_is_busy() -> bool:
            return any(
                worker.address == servers[1].address and worker.in_flight_bytes
                for worker in client._transport._session.pool.in_use
            )

        def kill_in_the_middle() -> None:
            wait_until(connection_is_busy)
            died.start()

        killer = threading.Thread(target=kill_in_the_middle)
        killer.start()
        y = client.compute(*given, split=True, timeout_s=PATIENCE_S)
        killer.join()
        died.join()
        assert y.tobytes() == right
