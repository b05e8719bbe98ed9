"""A server in a control group with little memory, under load, and with a neighbour that takes the rest."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mse_grad_client import ClientOptions, MseGradClient
from support.client.load import Load
from support.machine.memory_group import MemoryGroup, memory_group
from support.server.host_process import pid_of, worker_events
from support.server.server_process import running_server
from support.values import expected, operands
from support.waiting import PATIENCE_S, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="control groups are Linux's")]

MIB = 2**20
GROUP_BYTES = 112 * MIB
LARGE = 2**25  # elements of 4 bytes: each tensor is larger than the group

# Takes memory, a line of output for each MiB, until it is killed.
HOG = """
taken = []
while True:
    taken.append(bytearray(b"x") * 2**20)
    print(len(taken), flush=True)
"""


def test_half_of_the_groups_memory_may_be_mapped() -> None:
    with memory_group(512 * MIB) as group:
        printed = subprocess.run(
            [*group.command, sys.executable, "-m", "mse_grad_server", "--print-config"],
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=True,
        )
    (line,) = (line for line in printed.stdout.splitlines() if line.startswith("shared_memory_bytes:"))
    assert line.split()[1] == "256MiB"


@pytest.mark.parametrize("options", [ClientOptions(), ClientOptions(shared_memory=False)], ids=["shared", "messages"])
def test_under_load_a_server_computes_gradients_that_are_larger_than_its_group(options: ClientOptions) -> None:
    given = operands((LARGE,))
    right = expected(*given).tobytes()
    with (
        memory_group(GROUP_BYTES) as group,
        running_server(prefix=group.command) as server,
        Load((), server.address, timeout_s=PATIENCE_S) as load,
        MseGradClient(server.address, options=options) as client,
    ):
        load.begin()
        for out in (None, client.empty(LARGE), client.empty(GROUP_BYTES // 16)):
            count = LARGE if out is None else out.size
            predict, label, dout = (operand[:count] for operand in given)
            y = client.compute(predict, label, dout, out=out, numel=LARGE, timeout_s=PATIENCE_S)
            assert y.tobytes() == right[: y.nbytes]
        assert load.end().failures == []
        assert group.kills() == 0


@contextmanager
def hog(group: MemoryGroup) -> Iterator[subprocess.Popen[str]]:
    """Runs a neighbour in the group within the `with`, which takes all of its memory."""
    command = [*group.command, sys.executable, "-c", HOG]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        yield process
        process.kill()


def test_a_worker_that_the_kernel_kills_for_lack_of_memory_is_replaced_and_no_call_fails() -> None:
    with (
        memory_group(512 * MIB) as group,
        running_server("--workers", "2", "--ready-when", "all", prefix=group.command) as server,
        Load((), server.address, timeout_s=PATIENCE_S) as load,
    ):
        load.begin()
        victim = "cpu:0"
        first = pid_of(server, victim)
        # The kernel kills the process with the highest score first.
        Path(f"/proc/{first}/oom_score_adj").write_text("1000")
        with hog(group) as neighbour:
            assert neighbour.stdout is not None
            for _ in neighbour.stdout:
                if group.kills():
                    break
        wait_until(lambda: len(worker_events(server, "ready", victim)) == 2)
        assert load.end().failures == []
        assert group.kills() == 1
        (ended,) = worker_events(server, "worker_ended", victim)
        assert ended["exit_code"] == -signal.SIGKILL
        assert pid_of(server, victim) != first
