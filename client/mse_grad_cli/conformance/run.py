"""Run of all conformance checks of docs/numerics.md on one implementation of the gradient."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

from mse_grad.tensor import DTYPES, FLOAT64, Array, DType
from mse_grad_cli.conformance.case import Case, Compute, PartCompute, cases, part_of
from mse_grad_cli.conformance.central import central_differences
from mse_grad_cli.conformance.edge import Edge, edges, large_edges, part_edges
from mse_grad_cli.conformance.expected import same_bits
from mse_grad_cli.conformance.report import BarReport, Line, Row
from mse_grad_cli.conformance.sameness import sameness
from mse_grad_cli.conformance.tally import Tally

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
    finite_only: bool = False,
    on_case: Callable[[Case], None] | None = None,
) -> BarReport:
    """Checks `compute` by every line of the bar; an exception of `compute` ends the run.

    Args:
        compute: Implementation under test. It gets arrays of any shape and layout.
        dtypes: Element types that it accepts; the check by central differences needs float64.
        part: `compute` with the element count of a larger tensor as a fifth argument; without it, edge cases and
            parts of "mean" that need one are skipped.
        paths: Other implementations of the same gradient, by name; each must give the same bits as `compute`.
        lengths: Further element counts, such as a tile, the share of a core or a chunk; each comes with its two
            neighbours.
        threads: Threads that call `compute` at the same time; below 2 if it is not thread-safe.
        seed: Seed of all data.
        quick: Run fewer large shapes and repetitions.
        finite_only: Skip elements that are not finite or have such an intermediate, for devices that saturate.
        on_case: Called before each case.
    """
    started = time.monotonic()
    rows: list[Row] = []
    judged = elements = left_out = 0
    for dtype in dtypes:
        tally = Tally(dtype, finite_only)
        for case in cases(dtype, seed=seed, quick=quick, lengths=lengths):
            if on_case:
                on_case(case)
            tally.add(case, case.run(compute))
        rows += tally.rows()
        rows.append(_edges(compute, part, dtype, quick=quick, finite_only=finite_only))
        rows += sameness(compute, dtype, part=part, paths=paths or {}, threads=threads, seed=seed, quick=quick)
        if dtype is FLOAT64:
            rows.append(central_differences(compute, seed=seed))
        judged += tally.cases
        elements += tally.elements
        left_out += tally.left_out
    return BarReport(tuple(rows), judged, elements, time.monotonic() - started, left_out)


def _edges(compute: Compute, part: PartCompute | None, dtype: DType, *, quick: bool, finite_only: bool) -> Row:
    chosen = [edge for edge in edges(dtype) if not finite_only or edge.case.reference.finite.all()]
    table = [(edge, edge.case.run(compute)) for edge in chosen]
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
