"""The model of docs/capacity.md: its arithmetic, its bytes on a real server, and its figures in docs/benchmarks.md."""

from __future__ import annotations

import re
import urllib.request
from pathlib import Path

import numpy as np
import pytest

from mse_grad_client import ClientOptions, MseGradClient
from support.server.server_process import ServerProcess, running_server
from tools.capacity import TRANSPORTS, Load, Replica, Transport, main, replicas_for, replicas_for_streams
from tools.report import seconds_of, table_below

DOCS = Path(__file__).parents[2] / "docs"
PAGE = DOCS / "capacity.md"
# Transports by their rows in the tables of docs/benchmarks.md.
MEASURED = {
    "shared-memory": "`compute`, same host, arrays from `client.empty`",
    "same-host": "`compute`, same host",
    "tcp": "`compute`, TCP",
    "tcp-tuned": "`compute`, TCP, malloc tuned",
    "tcp-stream": "`compute`, TCP, gRPC's stream alone",
}
MANY = {"same-host-many": "`compute`, same host", "tcp-many": "`compute`, TCP"}


@pytest.fixture
def times() -> dict[str, list[str]]:
    """Returns the times of one gradient of 1K, 64K, 1M and 16M elements, by row."""
    return table_below((DOCS / "benchmarks.md").read_text(encoding="utf-8"), "Time of one gradient")


@pytest.fixture
def rates() -> dict[str, list[float]]:
    """Returns gradients of 1K elements per second: one by one, `compute_many`, four clients one by one; by row."""
    table = table_below((DOCS / "benchmarks.md").read_text(encoding="utf-8"), "Throughput of small gradients")
    return {row: [float(table[row][column].replace(",", "")) for column in range(3)] for row in MANY.values()}


def test_a_transport_goes_through_the_points_that_it_was_made_of() -> None:
    made = Transport.of((16 * 2**10, 225e-6), (256 * 2**20, 99e-3))
    assert made.seconds(Load(1, 2**10)) == pytest.approx(225e-6)
    assert made.seconds(Load(1, 2**24)) == pytest.approx(99e-3)
    assert all(one.fixed_s >= 0 and one.bytes_per_s > 0 for one in TRANSPORTS.values())


def test_the_transports_go_through_the_points_of_the_benchmarks(
    times: dict[str, list[str]], rates: dict[str, list[float]]
) -> None:
    assert {*TRANSPORTS} == {*MEASURED, *MANY}
    for name, transport in TRANSPORTS.items():
        row = MEASURED.get(name) or MANY[name]
        small_s = seconds_of(times[row][0]) if name in MEASURED else 1 / rates[row][1]
        assert transport.seconds(Load(1, 2**10)) == pytest.approx(small_s)
        assert transport.seconds(Load(1, 2**24)) == pytest.approx(seconds_of(times[row][3]))


def test_the_tables_of_the_page_are_those_of_the_transports_and_the_benchmarks(
    times: dict[str, list[str]], rates: dict[str, list[float]]
) -> None:
    page = PAGE.read_text(encoding="utf-8")
    _, *transports = [(row, *cells[:2]) for row, cells in table_below(page, "Transports").items()]
    assert transports == [
        (f"`{name}`", f"{1e6 * one.fixed_s:.0f} us", f"{one.bytes_per_s / 1e9:.3g} GB/s")
        for name, one in TRANSPORTS.items()
    ]
    _, *checked = [(row, *cells) for row, cells in table_below(page, "How good it is").items()]
    assert checked == [
        (f"`{name}`", times[row][2], f"{1e3 * TRANSPORTS[name].seconds(Load(1, 2**20)):.2g} ms")
        for name, row in MEASURED.items()
    ]
    low, high = sorted(four / one for one, _, four in rates.values())
    assert f"four clients got {low:.1f} to {high:.1f} times the gradients of one" in " ".join(page.split())


def test_the_least_bound_is_that_of_the_replica() -> None:
    load = Load(1000, 2**20)
    replica = Replica(Transport(0.0, 16e9), network_bytes_per_s=1e9, bus_bytes_per_s=24e9, npu_bytes_per_s=1e12)
    bounds = replica.bounds(load)
    assert bounds["transport"] == pytest.approx(16e9 / (16 * 2**20))
    assert bounds["network"] == pytest.approx(1e9 / (12 * 2**20))  # the operands' direction is the fuller one
    assert bounds["npu"] == pytest.approx(1 / (16 * 2**20 / 1e12 + 2 * 30e-6))  # two blocks of 2 MiB
    assert min(bounds, key=lambda stage: bounds[stage]) == "network"
    carried = bounds["network"] * 0.7
    assert replicas_for(load, replica, spare=0) * carried >= 1000 > (replicas_for(load, replica, spare=0) - 1) * carried
    assert replicas_for(load, replica, spare=2) == replicas_for(load, replica, spare=0) + 2


def test_streams_need_places() -> None:
    assert replicas_for_streams(1_000_000, 2, max_streams=4096) == 489
    assert replicas_for_streams(256, 1, max_streams=256) == 1


def test_the_page_shows_what_the_script_prints(capsys: pytest.CaptureFixture[str]) -> None:
    shown = re.findall(r"\$ .*tools\.capacity (.*)\n((?:[^`\n].*\n)+)", PAGE.read_text())
    assert len(shown) >= 2
    for arguments, printed in shown:
        main(arguments.split())
        assert capsys.readouterr().out == printed


@pytest.mark.slow
@pytest.mark.parametrize("scalar_dout", [False, True], ids=["tensor", "scalar"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_the_bytes_of_a_gradient_are_those_that_the_server_counts(dtype: str, scalar_dout: bool) -> None:
    options = ClientOptions(shared_memory=False, direct=False)
    load = Load(1, 100_000, dtype, scalar_dout)
    operand = np.ones(load.elements, dtype)
    with running_server() as server, MseGradClient(server.address, options=options) as client:
        before = transferred(server)
        for _ in range(7):
            client.compute(operand, operand, 1.0 if scalar_dout else operand, "sum")
        after = transferred(server)
    assert {direction: after[direction] - before[direction] for direction in after} == {
        "in": 7 * load.operand_bytes,
        "out": 7 * load.gradient_bytes,
    }


@pytest.mark.slow
def test_a_measured_point_is_printed_beside_the_model(capsys: pytest.CaptureFixture[str]) -> None:
    with running_server() as server:
        main(["--server", server.address, "--gradients-per-s", "10"])
    printed = capsys.readouterr().out
    found = re.search(r"measured, 1048576 elements: (\S+) ms; the model says (\S+) ms", printed)
    assert found is not None, printed
    assert all(float(figure) > 0 for figure in found.groups())


def transferred(server: ServerProcess) -> dict[str, float]:
    """Returns the bytes that the server counted, by direction."""
    with urllib.request.urlopen(f"http://{server.metrics_address}/metrics", timeout=30) as page:
        text = page.read().decode()
    found = {"in": 0.0, "out": 0.0}
    for direction, count in re.findall(r'^mse_grad_transferred_bytes_total{.*direction="(\w+)".*} (\S+)$', text, re.M):
        found[direction] += float(count)
    return found
