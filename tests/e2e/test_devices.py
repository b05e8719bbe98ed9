"""`mse-grad-server --devices 0-7` on simulated NPUs: one client uses them all."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mse_grad_client import MseGradClient
from support.npu.host import AscendHost, compute, compute_until, running_host
from support.waiting import PATIENCE_S

pytestmark = pytest.mark.slow

DEVICES = 8
CALLERS = 4 * DEVICES
GRADIENTS = 50 * DEVICES


@pytest.fixture
def host(tmp_path: Path) -> Iterator[AscendHost]:
    with running_host(tmp_path, devices=DEVICES, kernel_us=20_000) as started:
        yield started


def reach_all(client: MseGradClient, host: AscendHost) -> list[float]:
    """Computes until every NPU has computed something; returns the number of blocks of each NPU."""
    before = host.blocks()
    compute_until(client, lambda: all(now > then for now, then in zip(host.blocks(), before, strict=True)))
    return host.blocks()


def test_one_client_does_six_times_the_work_of_one_device(host: AscendHost) -> None:
    with MseGradClient(host.server.address) as client, ThreadPoolExecutor(CALLERS) as threads:
        assert [at.device for at in client.server_info().endpoints] == [f"npu:{number}" for number in range(DEVICES)]

        def times_the_busiest() -> float:
            before = reach_all(client, host)
            for done in [threads.submit(compute, client, seed) for seed in range(GRADIENTS)]:
                done.result(PATIENCE_S)
            shares = [now - then for now, then in zip(host.blocks(), before, strict=True)]
            assert sum(shares) == GRADIENTS
            # Every block takes its NPU the same time, so all are done when the busiest NPU is.
            print(f"blocks of each NPU: {shares}; together {sum(shares) / max(shares):.2f} times those of the busiest")
            return sum(shares) / max(shares)

        # A busy machine holds up single workers, and the others compute more; nothing makes the shares too even.
        assert any(times_the_busiest() >= 6 for _ in range(5))
    host.server.stop()
    accounts = host.accounts()
    assert len(accounts) == DEVICES
    busy_us = [each.busy_us["kernel"] for each in accounts]
    assert sum(busy_us) >= 6 * max(busy_us)
    assert not any(living for each in accounts for living in each.living.values())


def test_a_killed_worker_costs_no_request_and_takes_part_again(host: AscendHost) -> None:
    with MseGradClient(host.server.address) as client, ThreadPoolExecutor(CALLERS) as threads:
        idle_blocks = host.blocks()[3]  # blocks that its start computed
        reach_all(client, host)
        running = [threads.submit(compute, client, seed) for seed in range(GRADIENTS)]
        os.kill(host.pid_of(3), signal.SIGKILL)
        for done in running:
            done.result(PATIENCE_S)
        compute_until(client, lambda: host.blocks()[3] > idle_blocks)
