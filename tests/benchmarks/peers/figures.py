"""Figures of a run, and the rows without figures."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from benchmarks.peers.rows import Key, Row

__all__ = ["Absence", "Figure"]


@dataclass(frozen=True)
class Figure:
    """Time and rate of one row for one size and dtype.

    Attributes:
        name: Name of the row.
        transport: How the tensors reached the kernel.
        version: Release of the package that was measured.
        elements: Elements of each tensor of one gradient.
        dtype: Their type.
        clients: Client processes at a time.
        calls: Calls that were timed, of all clients.
        p50_us: Median time of a call, in microseconds; None if several clients were counted together.
        p99_us: 99th percentile of it, in microseconds; None as for `p50_us`.
        gb_per_s: Bytes of three operands and one gradient over the median, in 1e9 bytes a second; None as for
            `p50_us`.
        gradients_per_s: By the median time; with several clients, the median over the rounds.
        client_s_per_gb: Processor time of the client for 1e9 bytes of three operands and one gradient, in seconds; None
            if several clients were counted together.
        server_s_per_gb: That of the server, with its kernel; None as for `client_s_per_gb`, and if the row has no
            server.
    """

    name: str
    transport: str
    version: str
    elements: int
    dtype: str
    clients: int
    calls: int
    p50_us: float | None
    p99_us: float | None
    gb_per_s: float | None
    gradients_per_s: float
    client_s_per_gb: float | None = None
    server_s_per_gb: float | None = None

    @classmethod
    def of_times(
        cls,
        row: Row,
        version: str,
        elements: int,
        dtype: str,
        times_ns: Sequence[int],
        *,
        client_ns: float | None = None,
        server_ns: float | None = None,
    ) -> Figure:
        """Returns the figure of one client, from the times of its calls and the processor time of a call."""
        median_ns = statistics.median(times_ns)
        moved_bytes = 4 * row.items * elements * np.dtype(dtype).itemsize
        return cls(
            *row.key,
            version=version,
            elements=elements,
            dtype=dtype,
            clients=1,
            calls=len(times_ns),
            p50_us=median_ns / 1e3,
            p99_us=float(np.quantile(times_ns, 0.99)) / 1e3,
            gb_per_s=moved_bytes / median_ns,
            gradients_per_s=row.items * 1e9 / median_ns,
            client_s_per_gb=None if client_ns is None else client_ns / moved_bytes,
            server_s_per_gb=None if server_ns is None else server_ns / moved_bytes,
        )

    @property
    def key(self) -> Key:
        """Name and transport."""
        return self.name, self.transport

    def as_json(self) -> dict[str, str | int | float | None]:
        """Returns the fields, rounded to the digits that can mean something."""
        return {
            name: float(f"{value:.4g}") if isinstance(value, float) else value for name, value in asdict(self).items()
        }


@dataclass(frozen=True)
class Absence:
    """A row without figures from some point on, and the reason."""

    name: str
    transport: str
    during: str
    not_available: str

    def as_json(self) -> dict[str, str]:
        """Returns the fields."""
        return asdict(self)
