"""Replicas for a load, on paper: bytes of a gradient, what bounds a replica, and the cost of losing one.

PYTHONPATH=tests .venv/bin/python -m tools.capacity --gradients-per-s 2000 --elements 1M --npu --network-gbit 100
PYTHONPATH=tests .venv/bin/python -m tools.capacity --server 127.0.0.1:50051    # measures a transport for the model

docs/capacity.md explains the model. It needs no package but those of the SDK, and these for --server only.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["DTYPE_BYTES", "TRANSPORTS", "Load", "Replica", "Transport", "main", "replicas_for", "replicas_for_streams"]

DTYPE_BYTES = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2}
_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30}
_GB = 1e9
# Sizes of a measurement: two fix the model, the one between them checks it.
_SMALL, _MIDDLE, _LARGE = 2**10, 2**20, 2**23
_ROUNDS = {_SMALL: 200, _MIDDLE: 15, _LARGE: 5}


@dataclass(frozen=True)
class Load:
    """Gradients per second, all of one kind.

    Attributes:
        gradients_per_s: Over all clients.
        elements: Of predict.
        dtype: Its name.
        scalar_dout: Whether dout is one number, which travels in the header.
    """

    gradients_per_s: float
    elements: int
    dtype: str = "float32"
    scalar_dout: bool = False

    @property
    def operand_bytes(self) -> int:
        """Bytes of the operands of one gradient that travel to the server."""
        return (2 if self.scalar_dout else 3) * self.gradient_bytes

    @property
    def gradient_bytes(self) -> int:
        """Bytes of one gradient, which travel back."""
        return self.elements * DTYPE_BYTES[self.dtype]


@dataclass(frozen=True)
class Transport:
    """Time of one gradient between one client and one replica: a fixed part, and one per byte.

    Attributes:
        fixed_s: Seconds of a gradient without elements.
        bytes_per_s: Operands and gradient together.
    """

    fixed_s: float
    bytes_per_s: float

    @classmethod
    def of(cls, small: tuple[int, float], large: tuple[int, float]) -> Transport:
        """Returns the transport through two measured points, each the bytes of a gradient and its seconds."""
        (small_bytes, small_s), (large_bytes, large_s) = small, large
        per_byte_s = (large_s - small_s) / (large_bytes - small_bytes)
        return cls(max(0.0, small_s - small_bytes * per_byte_s), 1 / per_byte_s)

    def seconds(self, load: Load) -> float:
        """Returns the time of one gradient of `load`, with nothing else under way."""
        return self.fixed_s + (load.operand_bytes + load.gradient_bytes) / self.bytes_per_s


# Points of docs/benchmarks.md, which tests/deploy/test_capacity.py compares, float32: 1K and 16M elements, client and
# server on two cores, without an NPU. "tcp" is a direct connection, "many" is `compute_many` with 64 gradients of 1K.
_BYTES_1K, _BYTES_16M = 4 * 4 * 2**10, 4 * 4 * 2**24
TRANSPORTS = {
    "shared-memory": Transport.of((_BYTES_1K, 170e-6), (_BYTES_16M, 7.6e-3)),
    "same-host": Transport.of((_BYTES_1K, 171e-6), (_BYTES_16M, 68e-3)),
    "tcp": Transport.of((_BYTES_1K, 198e-6), (_BYTES_16M, 131e-3)),
    "tcp-tuned": Transport.of((_BYTES_1K, 238e-6), (_BYTES_16M, 101e-3)),
    "tcp-stream": Transport.of((_BYTES_1K, 418e-6), (_BYTES_16M, 142e-3)),
    "same-host-many": Transport.of((_BYTES_1K, 1 / 100_000), (_BYTES_16M, 68e-3)),
    "tcp-many": Transport.of((_BYTES_1K, 1 / 88_000), (_BYTES_16M, 131e-3)),
}


@dataclass(frozen=True)
class Replica:
    """The bounds of one server; None for one that it does not have.

    Attributes:
        transport: Path from the clients to it.
        network_bytes_per_s: Of its network card, in each direction.
        bus_bytes_per_s: Between the host and the NPU, in each direction.
        npu_bytes_per_s: Memory bandwidth of the NPU.
        launch_s: Time of one launch on the NPU.
        block_bytes: Largest operand in one launch.
    """

    transport: Transport
    network_bytes_per_s: float | None = None
    bus_bytes_per_s: float | None = None
    npu_bytes_per_s: float | None = None
    launch_s: float = 30e-6
    block_bytes: int = 2 * 2**20

    def bounds(self, load: Load) -> dict[str, float]:
        """Returns the gradients per second that each stage carries; stages overlap, so the least is the replica's."""
        larger = max(load.operand_bytes, load.gradient_bytes)
        found = {"transport": 1 / self.transport.seconds(load)}
        if self.network_bytes_per_s:
            found["network"] = self.network_bytes_per_s / larger
        if self.bus_bytes_per_s:
            found["bus"] = self.bus_bytes_per_s / larger
        if self.npu_bytes_per_s:
            launches = math.ceil(load.gradient_bytes / self.block_bytes)
            moved_s = (load.operand_bytes + load.gradient_bytes) / self.npu_bytes_per_s
            found["npu"] = 1 / (moved_s + launches * self.launch_s)
        return found


def replicas_for(load: Load, replica: Replica, *, utilization: float = 0.7, spare: int = 1) -> int:
    """Returns the number of replicas that carry `load`, each used up to `utilization`, and `spare` more."""
    carried = min(replica.bounds(load).values())
    return math.ceil(load.gradients_per_s / (carried * utilization)) + spare


def replicas_for_streams(clients: int, servers_per_client: int, *, max_streams: int) -> int:
    """Returns the number of replicas that have a place for each stream of each client."""
    return math.ceil(clients * servers_per_client / max_streams)


def _report(load: Load, replica: Replica, flags: argparse.Namespace) -> list[str]:
    bounds = replica.bounds(load)
    name = min(bounds, key=lambda stage: bounds[stage])
    count = replicas_for(load, replica, utilization=flags.utilization, spare=flags.spare)
    used = load.gradients_per_s / (count * bounds[name])
    lines = [
        f"one gradient          {load.operand_bytes} bytes of operands, {load.gradient_bytes} bytes back",
        f"time of one gradient  {1e3 * replica.transport.seconds(load):.3g} ms over the transport, alone",
        *(f"bound: {stage:14} {bounds[stage]:.4g} gradients/s" for stage in bounds),
        f"one replica           {bounds[name]:.4g} gradients/s, bound by the {name}",
        f"replicas              {count}, of which {flags.spare} spare, each used {100 * used:.0f} %",
        f"wait behind others    {1e3 * _wait_s(bounds[name], used):.3g} ms in the mean",
    ]
    if count > 1:
        after = used * count / (count - 1)
        again = load.gradients_per_s / count * replica.transport.seconds(load)
        lines.append(
            f"one replica lost      {again:.3g} gradients are sent again, the others are used {100 * after:.0f} %"
        )
    if flags.clients:
        each = min(flags.servers_per_client or count, count)
        by_streams = replicas_for_streams(flags.clients, each, max_streams=flags.max_streams)
        lines.append(
            f"clients               {flags.clients} with {each} streams each: {by_streams} replicas of --max-streams "
            f"{flags.max_streams}"
        )
    return lines


def _wait_s(rate: float, used: float) -> float:
    """Returns the mean wait in a queue of random arrivals and equal service times (Pollaczek-Khinchine)."""
    return math.inf if used >= 1 else used / (2 * (1 - used)) / rate


def _measured(address: str) -> tuple[Transport, list[str]]:
    """Measures a server with one client; returns its transport, and the point in the middle beside the model."""
    import numpy as np

    from mse_grad_client import MseGradClient

    found: dict[int, float] = {}
    with MseGradClient(address) as client:
        for elements, rounds in _ROUNDS.items():
            operand = np.ones(elements, np.float32)
            out = np.empty_like(operand)
            taken = []
            for _ in range(rounds):
                began = time.perf_counter()
                client.compute(operand, operand, operand, "sum", out=out)
                taken.append(time.perf_counter() - began)
            found[elements] = statistics.median(taken)
    points = {elements: Load(1, elements) for elements in found}
    moved = {elements: load.operand_bytes + load.gradient_bytes for elements, load in points.items()}
    transport = Transport.of((moved[_SMALL], found[_SMALL]), (moved[_LARGE], found[_LARGE]))
    lines = [
        f"measured transport    {1e6 * transport.fixed_s:.0f} us + bytes / {transport.bytes_per_s / _GB:.3g} GB/s",
        f"measured, {_MIDDLE} elements: {1e3 * found[_MIDDLE]:.3g} ms; "
        f"the model says {1e3 * transport.seconds(points[_MIDDLE]):.3g} ms",
    ]
    return transport, lines


def _count(text: str) -> int:
    return int(float(text.rstrip("KMG")) * _UNITS.get(text[-1], 1))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="tools.capacity", description="Replicas for a load, on paper.")
    parser.add_argument("--gradients-per-s", type=float, default=1000, help="over all clients (%(default)s)")
    parser.add_argument("--elements", type=_count, default=2**20, help="of predict; K, M and G are powers of 1024 (1M)")
    parser.add_argument("--dtype", choices=DTYPE_BYTES, default="float32", help="of all operands (%(default)s)")
    parser.add_argument("--scalar-dout", action="store_true", help="dout is one number")
    parser.add_argument("--transport", choices=TRANSPORTS, default="tcp-tuned", help="of the page (%(default)s)")
    parser.add_argument("--server", metavar="ADDRESS", help="measure the transport with this server")
    parser.add_argument("--network-gbit", type=float, help="network card of a replica, in Gbit/s (no bound)")
    parser.add_argument("--npu", action="store_true", help="each replica has an NPU")
    parser.add_argument("--bus-gb", type=float, default=24.0, help="host to NPU, in GB/s each way (%(default)s)")
    parser.add_argument("--npu-gb", type=float, default=1200.0, help="memory of the NPU, in GB/s (%(default)s)")
    parser.add_argument("--utilization", type=float, default=0.7, help="most that a replica is used (%(default)s)")
    parser.add_argument("--spare", type=int, default=1, help="replicas that may be down (%(default)s)")
    parser.add_argument("--clients", type=int, default=0, help="processes with the SDK (not asked)")
    parser.add_argument("--servers-per-client", type=int, default=0, help="servers that a client knows (0: all)")
    parser.add_argument("--max-streams", type=int, default=256, help="of each replica (%(default)s)")
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the report."""
    flags = _parser().parse_args(arguments)
    transport, lines = _measured(flags.server) if flags.server else (TRANSPORTS[flags.transport], [])
    replica = Replica(
        transport,
        network_bytes_per_s=flags.network_gbit and flags.network_gbit * _GB / 8,
        bus_bytes_per_s=flags.bus_gb * _GB if flags.npu else None,
        npu_bytes_per_s=flags.npu_gb * _GB if flags.npu else None,
    )
    load = Load(flags.gradients_per_s, flags.elements, flags.dtype, flags.scalar_dout)
    print("\n".join([*lines, *_report(load, replica, flags)]))


if __name__ == "__main__":
    main()
