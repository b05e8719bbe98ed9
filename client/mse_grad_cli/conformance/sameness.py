"""Checks that compare an implementation with itself: the bits must be the same on every path and in every run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np

from mse_grad.tensor import Array, DType, Reduction
from mse_grad_cli.conformance.case import Case, Compute, PartCompute, make_case, part_of
from mse_grad_cli.conformance.expected import same_bits
from mse_grad_cli.conformance.operands import KINDS
from mse_grad_cli.conformance.report import Line, Row

__all__ = ["sameness"]

# Odd, so that every vector width leaves a tail; small enough for one message of any transport.
LENGTH = 4097
LONG = 70001
SHORT_LENGTHS = (1, 31, 513, LENGTH)
PATH_LENGTHS = (*SHORT_LENGTHS, 65537, LONG)
# The last length has several chunks at any server's chunk size.
THREAD_LENGTHS = (*PATH_LENGTHS, 2**18 + 1)
FULL_RUNS, QUICK_RUNS = 100, 20


def sameness(
    compute: Compute,
    dtype: DType,
    *,
    part: PartCompute | None,
    paths: Mapping[str, Compute],
    threads: int,
    seed: int,
    quick: bool,
) -> Iterator[Row]:
    """Yields the rows of line 4 for one dtype.

    Args:
        compute: Implementation under test.
        dtype: Element type of the operands.
        part: `compute` for a part of a larger tensor; without it the check of parts skips "mean".
        paths: Other implementations of the same gradient, by name.
        threads: Concurrent calls; below 2 skips the check of threads.
        seed: Seed of all data.
        quick: 20 runs instead of 100.
    """
    rng = np.random.default_rng([seed, dtype.wire, 4])
    yield _dout(rng, compute, dtype)
    yield _parts(rng, compute, part, dtype)
    yield _runs(rng, compute, dtype, runs=QUICK_RUNS if quick else FULL_RUNS)
    if threads > 1:
        lengths = SHORT_LENGTHS if quick else THREAD_LENGTHS
        yield _threads(rng, compute, dtype, threads=threads, lengths=lengths)
    for name, path in paths.items():
        yield _path(rng, compute, path, dtype, name=name)


def _dout(rng: np.random.Generator, compute: Compute, dtype: DType) -> Row:
    unlike = 0
    for kind in KINDS:
        for reduction in Reduction:
            for form in ("rank 0", "rank 1", "number"):
                # If c is not a power of two, only few 16-bit results would differ, so this needs many elements.
                length = LONG if reduction is Reduction.MEAN and kind in ("normal", "wide") else LENGTH
                case = make_case(rng, dtype, (length,), kind=kind, reduction=reduction, dout=form)
                full = np.full(length, np.asarray(case.dout, dtype.numpy).reshape(()))
                unlike += _unlike(case.run(compute), replace(case, dout=full).run(compute))
    return Row(dtype.name, Line.DOUT, unlike, 0)


def _parts(rng: np.random.Generator, compute: Compute, part: PartCompute | None, dtype: DType) -> Row:
    unlike = 0
    # Without the N of the whole, a part of a mean is a different mean.
    reductions = (Reduction.NONE, Reduction.SUM, Reduction.MEAN) if part else (Reduction.NONE, Reduction.SUM)
    for kind in KINDS:
        for reduction in reductions:
            of_whole = part_of(part, LENGTH if reduction is Reduction.MEAN else 0) if part else compute
            case = make_case(rng, dtype, (LENGTH,), kind=kind, reduction=reduction)
            ends = np.sort(rng.choice(np.arange(1, LENGTH), 5, replace=False))
            operands = (case.predict, case.label, np.asarray(case.dout))
            split = zip(*(np.split(operand, ends) for operand in operands), strict=True)
            parts = [replace(case, predict=x, label=t, dout=g).run(of_whole) for x, t, g in split]
            unlike += _unlike(case.run(compute), np.concatenate(parts))
    return Row(dtype.name, Line.PARTS, unlike, 0, note=", ".join(reduction.text for reduction in reductions))


def _runs(rng: np.random.Generator, compute: Compute, dtype: DType, *, runs: int) -> Row:
    # Two cases in turn, so that leftovers of one call would show in the next.
    pair = [make_case(rng, dtype, (LONG,), kind="wide") for _ in range(2)]
    first = [case.run(compute) for case in pair]
    unlike = sum(
        _unlike(case.run(compute), wanted) > 0
        for _ in range(runs - 1)
        for case, wanted in zip(pair, first, strict=True)
    )
    return Row(dtype.name, Line.RUNS, unlike, 0, note=f"{runs} runs of 2 cases")


def _threads(rng: np.random.Generator, compute: Compute, dtype: DType, *, threads: int, lengths: Sequence[int]) -> Row:
    many = [case for _ in range(3) for case in _path_cases(rng, dtype, lengths)]
    wanted = [case.run(compute) for case in many]

    def run(case: Case) -> Array:
        return case.run(compute)

    with ThreadPoolExecutor(threads) as pool:
        results = list(pool.map(run, many))
    unlike = sum(_unlike(result, alone) > 0 for result, alone in zip(results, wanted, strict=True))
    return Row(dtype.name, Line.THREADS, unlike, 0, note=f"{len(many)} cases on {threads} threads")


def _path(rng: np.random.Generator, compute: Compute, path: Compute, dtype: DType, *, name: str) -> Row:
    unlike, first, cases = 0, "", 0
    for case in _path_cases(rng, dtype, PATH_LENGTHS):
        cases += 1
        found = _unlike(case.run(compute), case.run(path))
        first = first or (str(case) if found else "")
        unlike += found
    return Row(dtype.name, Line.PATH, unlike, 0, note=first or f"{cases} cases", path=name)


def _path_cases(rng: np.random.Generator, dtype: DType, lengths: Sequence[int]) -> Iterator[Case]:
    for length in lengths:
        for kind in ("normal", "extreme"):
            yield make_case(rng, dtype, (length,), kind=kind)
        yield make_case(rng, dtype, (length,), kind="wide", dout="rank 0")
        yield make_case(rng, dtype, (length,), kind="tied", reduction=Reduction.SUM, dout="number")
    for shape in ((), (0,), (5, 7, 11)):
        yield make_case(rng, dtype, shape, reduction=Reduction.NONE, dout="full")
    yield make_case(rng, dtype, (33, 17), layout="Fortran")


def _unlike(a: Array, b: Array) -> int:
    if a.shape != b.shape or a.dtype != b.dtype:
        return max(a.size, b.size, 1)
    return int(np.count_nonzero(~same_bits(a.reshape(-1), b.reshape(-1))))
