"""Runs the bar of docs/numerics.md on one implementation of the gradient."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

from mse_grad.tensor import DTYPES, FLOAT64, Array, DType
from mse_grad_client.bar.case import Case, Compute, PartCompute, cases, part_of
from mse_grad_client.bar.central import central_differences
from mse_grad_client.bar.edge import Edge, edges, large_edges, part_edges
from mse_grad_client.bar.expected import same_bits
from mse_grad_client.bar.report import BarReport, Line, Row
from mse_grad_client.bar.sameness import sameness
from mse_grad_client.bar.tally import Tally

__all__ = ["run_bar"]


def run_bar(
    compute: Compute,
    *,
    dtypes: Sequence[DType] = DTYPES,
    part: PartCompute | None = None,
    paths: Mapping[str, Compute] | None = None,
    lengths: Sequence[int] = (),
    threads: int = 4,
    seed: int = 0,
    quick: bool = False,
    on_case: Callable[[Case], None] | None = None,
) -> BarReport:
    """Judges `compute` by every line of the bar; what it raises ends the run.

    Args:
        compute: What is judged. It gets arrays of any shape and layout.
        dtypes: Element types that it takes; the line of central differences needs float64.
        part: `compute` with the element count of a larger tensor as a fifth argument; without it, edges and parts of
            "mean" that need one are left out.
        paths: Other ways to the same gradient, by name; each must give the bits that `compute` gives.
        lengths: Further element counts worth a look, such as a tile, the share of a core or a chunk; each comes with
            its two neighbours.
        threads: Threads that call `compute` at a time; below 2 for what is not thread-safe.
        seed: Seed of all data.
        quick: Fewer large shapes and runs.
        on_case: Called before each case that is judged.
    """
    started = time.monotonic()
    rows: list[Row] = []
    judged = elements = 0
    for dtype in dtypes:
        tally = Tally(dtype)
        for case in cases(dtype, seed=seed, quick=quick, lengths=lengths):
            if on_case:
                on_case(case)
            tally.add(case, case.run(compute))
        rows += tally.rows()
        rows.append(_edges(compute, part, dtype, quick=quick))
        rows += sameness(compute, dtype, part=part, paths=paths or {}, threads=threads, seed=seed, quick=quick)
        if dtype is FLOAT64:
            rows.append(central_differences(compute, seed=seed))
        judged += tally.cases
        elements += tally.elements
    return BarReport(tuple(rows), judged, elements, time.monotonic() - started)


def _edges(compute: Compute, part: PartCompute | None, dtype: DType, *, quick: bool) -> Row:
    table = [(edge, edge.case.run(compute)) for edge in edges(dtype)]
    if not quick:
        table += [(edge, edge.case.run(compute)) for edge in large_edges(dtype)]
    if part:
        table += [(edge, edge.case.run(part_of(part, edge.numel))) for edge in part_edges(dtype)]
    failed = [f"{edge.case}: {result}, not {edge.expected}" for edge, result in table if not _holds(edge, result)]
    return Row(dtype.name, Line.EDGES, len(failed), 0, note="\n".join(failed) or f"{len(table)} rows")


def _holds(edge: Edge, result: Array) -> bool:
    if result.shape != edge.expected.shape or result.dtype != edge.expected.dtype:
        return False
    return bool(same_bits(result.reshape(-1), edge.expected.reshape(-1)).all())
