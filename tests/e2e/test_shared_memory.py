"""Memory that real processes share: gradients computed in it, and its release when a process ends."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from mse_grad_client import ClientOptions, DeadlineExceeded, MseGradClient
from support.ports import held_port
from support.server.server_process import ServerProcess, running_server
from support.values import Operands, expected, operands
from support.waiting import PATIENCE_S, wait_until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory without a name needs Linux")

COUNT = 200_000
MIB = 2**20


def metric(server: ServerProcess, name: str, *, least: bool = False, **labels: str) -> float:
    """Returns the sum, or the minimum, of a metric's samples with these labels, leaving out those of shared memory."""
    with urllib.request.urlopen(f"http://{server.metrics_address}/metrics", timeout=PATIENCE_S) as answer:
        text = answer.read().decode()
    samples = (sample for family in text_string_to_metric_families(text) for sample in family.samples)
    values = [
        sample.value
        for sample in samples
        if sample.name == f"mse_grad_{name}"
        and sample.labels.get("transport") != "shared_memory"
        and labels.items() <= sample.labels.items()
    ]
    return min(values) if least else sum(values)


def elements_in_shared_memory(server: ServerProcess) -> float:
    return metric(server, "shared_memory_elements_total")


def shared_operands(client: MseGradClient, count: int = COUNT, *, seed: int = 7) -> Operands:
    """Returns predict, label and dout in shared memory, filled with numbers."""
    predict, label, dout = (client.empty(count) for _ in range(3))
    for array, values in zip((predict, label, dout), operands((count,), seed=seed), strict=True):
        array[...] = values
    return predict, label, dout


def assert_computes(client: MseGradClient, count: int = COUNT, *, seed: int = 7) -> None:
    given = shared_operands(client, count, seed=seed)
    out = client.empty(count)
    assert client.compute(*given, out=out) is out
    assert out.tobytes() == expected(*given).tobytes()


@pytest.fixture
def client(server: ServerProcess) -> Iterator[MseGradClient]:
    with MseGradClient(server.address) as connected:
        yield connected


def own_address() -> str:
    """Returns this host's address in its network, or that of loopback if it has none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("198.51.100.1", 9))  # connecting a datagram socket sends nothing
        except OSError:
            return "127.0.0.1"
        return str(probe.getsockname()[0])


def test_a_server_that_is_reached_by_an_address_of_its_host_shares_memory() -> None:
    with (
        running_server("--insecure-listen", listen=f"{own_address()}:0") as server,
        MseGradClient(server.address) as client,
    ):
        assert_computes(client)
        assert client.server_info().transport == "shared_memory"


def test_arrays_that_the_client_hands_out_are_computed_in_place(server: ServerProcess, client: MseGradClient) -> None:
    before = elements_in_shared_memory(server), metric(server, "transferred_bytes_total")
    assert_computes(client)
    assert client.wait_ready(30) == client.server_info()
    assert client.server_info().transport == "shared_memory"
    assert elements_in_shared_memory(server) == before[0] + COUNT
    assert metric(server, "transferred_bytes_total") == before[1]


def test_large_ordinary_arrays_go_through_shared_memory(server: ServerProcess, client: MseGradClient) -> None:
    given = operands((3 * MIB + 5,))
    before = elements_in_shared_memory(server)
    assert client.compute(*given).tobytes() == expected(*given).tobytes()
    assert elements_in_shared_memory(server) == before + 3 * MIB + 5


def test_small_arrays_go_in_packets(server: ServerProcess, client: MseGradClient) -> None:
    def packets_out() -> float:
        return metric(server, "transferred_elements_total", direction="out", transport="packets")

    before = elements_in_shared_memory(server), packets_out()
    assert_computes(client, 1000)
    given = operands((5000,))
    assert client.compute(*given).tobytes() == expected(*given).tobytes()
    assert (elements_in_shared_memory(server), packets_out()) == (before[0], before[1] + 6000)


def test_many_small_arrays_are_packed_in_shared_memory(server: ServerProcess, client: MseGradClient) -> None:
    before = elements_in_shared_memory(server)
    items = [operands((1000,), seed=seed) for seed in range(100)]
    for y, item in zip(client.compute_many(items), items, strict=True):
        assert y.tobytes() == expected(*item).tobytes()
    assert elements_in_shared_memory(server) == before + 100_000


@pytest.mark.parametrize("index", range(3), ids=["predict", "label", "dout"])
def test_an_operand_may_receive_the_gradient(client: MseGradClient, index: int) -> None:
    given = shared_operands(client)
    wanted = expected(*given).tobytes()
    assert client.compute(*given, out=given[index]).tobytes() == wanted


def test_an_array_that_is_not_aligned_is_copied(server: ServerProcess, client: MseGradClient) -> None:
    bytes_ = client.empty(4 * COUNT + 1, np.uint8)
    predict = bytes_[1:].view(np.float32)
    predict[...] = operands((COUNT,))[0]
    _, label, dout = shared_operands(client)
    before = elements_in_shared_memory(server)
    assert client.compute(predict, label, dout).tobytes() == expected(predict, label, dout).tobytes()
    assert elements_in_shared_memory(server) == before + COUNT


def test_segments_are_used_again(server: ServerProcess, client: MseGradClient) -> None:
    assert_computes(client)
    segments = metric(server, "shared_memory_segments")
    for seed in range(20):
        assert_computes(client, COUNT * (1 + seed % 3), seed=seed)
    assert metric(server, "shared_memory_segments") == segments


def test_segments_that_are_given_back_are_unmapped(server: ServerProcess) -> None:
    before = metric(server, "shared_memory_bytes")
    with MseGradClient(server.address) as client:
        large = [client.empty(100 * MIB) for _ in range(3)]  # 1.2 GB, of which one page for each array is ever touched
        for array in large:
            client.compute(array[:COUNT], array[COUNT : 2 * COUNT], 1.0, out=array[2 * COUNT : 3 * COUNT])
        assert metric(server, "shared_memory_bytes") == before + 1200 * MIB
        del large, array
        gc.collect()
        assert_computes(client)
        assert metric(server, "shared_memory_bytes") <= before + 464 * MIB


def test_many_threads_share_one_client(client: MseGradClient) -> None:
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda seed: assert_computes(client, COUNT + seed, seed=seed), range(24)))
        given = [operands((COUNT + seed,), seed=seed) for seed in range(16)]
        for operand, y in zip(given, threads.map(lambda each: client.compute(*each), given), strict=True):
            assert y.tobytes() == expected(*operand).tobytes()


def test_every_worker_gets_the_segments_that_its_requests_need() -> None:
    with running_server("--workers", "2", "--ready-when", "all") as host, MseGradClient(host.address) as client:
        given = shared_operands(client, MIB)
        outs = [client.empty(MIB) for _ in range(4)]

        def both_computed() -> bool:
            with ThreadPoolExecutor(4) as threads:
                for y in threads.map(lambda out: client.compute(*given, out=out), outs):
                    assert y.tobytes() == wanted
            return metric(host, "shared_memory_elements_total", least=True) > 0

        wanted = expected(*given).tobytes()
        wait_until(both_computed)


def test_arrays_of_another_client_are_ordinary_ones(server: ServerProcess, client: MseGradClient) -> None:
    with MseGradClient(server.address) as other:
        given = shared_operands(other)
        out = other.empty(COUNT)
        assert client.compute(*given, out=out) is out
        assert out.tobytes() == expected(*given).tobytes()


def test_an_array_outlives_its_client(server: ServerProcess) -> None:
    with MseGradClient(server.address) as client:
        given = shared_operands(client)
        y = client.compute(*given, out=client.empty(COUNT))
    del client
    gc.collect()
    assert y.tobytes() == expected(*given).tobytes()
    y[...] = 1
    assert (y == 1).all()


def test_a_client_that_closes_leaves_nothing_mapped(server: ServerProcess) -> None:
    before = metric(server, "shared_memory_bytes")
    with MseGradClient(server.address) as client:
        assert_computes(client)
        assert metric(server, "shared_memory_bytes") > before
    wait_until(lambda: metric(server, "shared_memory_bytes") == before)


KILLED = """
import os, signal, sys
from mse_grad_client import MseGradClient
client = MseGradClient(sys.argv[1])
given = [client.empty(4_000_000) for _ in range(3)]
for array in given:
    array[...] = 1
out = client.empty(4_000_000)
print("computing", flush=True)
while True:
    client.compute(*given, out=out)
"""


def test_a_client_that_is_killed_leaves_nothing_mapped(server: ServerProcess, client: MseGradClient) -> None:
    before = metric(server, "shared_memory_bytes")
    computed = elements_in_shared_memory(server)
    with subprocess.Popen([sys.executable, "-c", KILLED, server.address], stdout=subprocess.PIPE) as process:
        try:
            wait_until(lambda: elements_in_shared_memory(server) >= computed + 8_000_000)
        finally:
            process.kill()
    wait_until(lambda: metric(server, "shared_memory_bytes") == before)
    wait_until(lambda: metric(server, "in_flight_requests") == 0)
    assert_computes(client)


@pytest.mark.parametrize("end", ["stop", "kill"])
@pytest.mark.parametrize("network", ["tcp", "unix"])
def test_the_next_server_gets_the_same_arrays(end: str, network: str, tmp_path: Path) -> None:
    with held_port() as port, ExitStack() as opened:
        listen = f"127.0.0.1:{port}" if network == "tcp" else f"unix:{tmp_path / 'mse-grad.sock'}"
        with running_server(listen=listen) as first:
            client = opened.enter_context(MseGradClient(first.address))
            given, out = shared_operands(client), client.empty(COUNT)
            client.compute(*given, out=out)
            assert elements_in_shared_memory(first) == COUNT
            if end == "kill":
                first.kill()
        out[...] = 0
        with running_server(listen=listen) as second:
            assert client.compute(*given, out=out).tobytes() == expected(*given).tobytes()
            assert elements_in_shared_memory(second) == COUNT


@pytest.mark.parametrize(
    "flags",
    [["--no-shared-memory"], ["--shared-memory-users", "4294967294"], ["--shared-memory-stream-bytes", "1MiB"]],
    ids=["off", "another user", "too little"],
)
def test_gradients_go_over_the_stream_if_the_server_maps_nothing(flags: list[str]) -> None:
    with running_server(*flags) as server, MseGradClient(server.address) as client:
        assert_computes(client)
        given = operands((MIB,))
        assert client.compute(*given).tobytes() == expected(*given).tobytes()
        assert elements_in_shared_memory(server) == 0
        wanted = "shared_memory" if "1MiB" in flags else "direct"
        wait_until(lambda: client.server_info().transport == wanted)


def test_gradients_go_over_the_stream_if_the_client_shares_nothing(server: ServerProcess) -> None:
    before = elements_in_shared_memory(server)
    with MseGradClient(server.address, options=ClientOptions(shared_memory=False, direct=False)) as client:
        assert_computes(client)
        assert client.server_info().transport == "stream"
    assert elements_in_shared_memory(server) == before


def compute_in_child(client: MseGradClient) -> None:
    for seed in range(5):
        assert_computes(client, seed=seed)
    assert client.server_info().transport == "shared_memory"


def test_parent_and_child_of_a_fork_share_nothing_new(client: MseGradClient) -> None:
    given, out = shared_operands(client), client.empty(COUNT)
    wanted = expected(*given).tobytes()
    for _ in range(2):
        client.compute(*given, out=out)
        child = multiprocessing.get_context("fork").Process(target=compute_in_child, args=(client,))
        child.start()
        while child.is_alive():
            assert client.compute(*given, out=out).tobytes() == wanted
            child.join(0.01)
        assert child.exitcode == 0
        assert client.compute(*given, out=out).tobytes() == wanted


def test_a_server_that_hangs_ends_a_call_at_its_deadline_and_the_next_ones_are_right() -> None:
    with running_server() as server, MseGradClient(server.address) as client:
        given, out = shared_operands(client), client.empty(COUNT)
        client.compute(*given, out=out)
        os.kill(server.process.pid, signal.SIGSTOP)
        try:
            for ordinary in (False, True):
                with pytest.raises(DeadlineExceeded):
                    client.compute(*given, out=None if ordinary else out, timeout_s=0.2)
        finally:
            os.kill(server.process.pid, signal.SIGCONT)
        for seed in range(5):
            assert_computes(client, seed=seed)
        assert client.compute(*given, out=out).tobytes() == expected(*given).tobytes()


def test_no_shared_memory_is_left_behind() -> None:
    with running_server() as server, MseGradClient(server.address) as client:
        assert_computes(client)
        assert not [name for name in os.listdir("/dev/shm") if "mse-grad" in name]
        name = f"mse-grad-{client.server_info().instance_id}"
        assert name in Path("/proc/net/unix").read_text()
    assert name not in Path("/proc/net/unix").read_text()


def test_an_array_is_a_numpy_array_of_its_shape_and_dtype(client: MseGradClient) -> None:
    array = client.empty((3, 5), np.float16)
    assert type(array) is np.ndarray
    assert (array.shape, array.dtype.name, array.flags.c_contiguous) == ((3, 5), "float16", True)
