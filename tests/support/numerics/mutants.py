"""The table of mutants: every way to be wrong, with the lines of the bar that must notice it.

A bar that accepts one of them is useless.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from mse_grad.tensor import BFLOAT16, DTYPES, FLOAT16, FLOAT32, FLOAT64, DType
from mse_grad_cli.conformance import Compute, Line
from support.numerics import broken

__all__ = ["MUTANTS", "Mutant"]

Lines = Mapping[DType, tuple[Line, ...]]


@dataclass(frozen=True)
class Mutant:
    """One way to be wrong.

    Attributes:
        name: Description of the mistake.
        make: Returns a new instance, without state from earlier calls.
        killed_by: The lines that must notice it, for each dtype in which it is wrong.
    """

    name: str
    make: Callable[[], Compute]
    killed_by: Lines


def _mutant(name: str, compute: Compute, killed_by: Lines) -> Mutant:
    return Mutant(name, lambda: compute, killed_by)


def _by(*lines: Line, only: tuple[DType, ...] = DTYPES) -> Lines:
    return dict.fromkeys(only, lines)


HALVES = (FLOAT16, BFLOAT16)
WIDE = (FLOAT32, FLOAT64)
FROM_FLOAT32 = (FLOAT32, *HALVES)
ULP: Lines = {**_by(Line.HALF_ULP, only=HALVES), **_by(Line.ULP, only=WIDE)}
BITS: Lines = {**_by(Line.HALF_BITS, only=HALVES), **_by(Line.BITS, only=WIDE)}
ULP_WIDE: Lines = _by(Line.ULP, only=WIDE)

MUTANTS = (
    # The operator's own failures.
    _mutant("all zeros", broken.changed(np.zeros_like), _by(Line.FALSE_ZEROS, Line.RMS)),
    _mutant("flipped sign", broken.changed(np.negative), ULP),
    _mutant("twice as much", broken.changed(lambda y: y + y), ULP),
    _mutant("half as much", broken.changed(lambda y: y * y.dtype.type(0.5)), ULP),
    _mutant("N through float16", broken.combined(broken.true, numel=lambda x: float(np.float16(x.size))), ULP),
    _mutant(
        "N through bfloat16",
        broken.combined(broken.true, numel=lambda x: float(BFLOAT16.numpy.type(x.size))),
        # In bfloat16 this moves no result by more than one value.
        {**ULP, BFLOAT16: (Line.HALF_EQUAL,)},
    ),
    _mutant("N modulo 2^16", broken.combined(broken.true, numel=lambda x: x.size % 65536), ULP),
    _mutant("N + 1", broken.combined(broken.true, numel=lambda x: x.size + 1), ULP),
    _mutant(
        "N of the last dimension", broken.combined(broken.true, numel=lambda x: x.shape[-1] if x.shape else 1), ULP
    ),
    _mutant("N of the chunk", broken.in_chunks(1000), ULP),
    _mutant("last element zero", broken.with_last_element(0.0), _by(Line.FALSE_ZEROS)),
    _mutant("last element left over", broken.with_last_element(7.0), ULP),
    _mutant("mean for sum", broken.another_reduction({"sum": "mean"}), ULP),
    _mutant("mean for none", broken.another_reduction({"none": "mean"}), ULP),
    _mutant("sum for mean", broken.another_reduction({"mean": "sum"}), ULP),
    # Memory.
    Mutant("output of the call before", broken.stale, {d: (*ULP[d], Line.RUNS) for d in DTYPES}),
    Mutant("wrong every seventh time", broken.wrong_every_seventh_time, _by(Line.RUNS)),
    Mutant("wrong in other threads", broken.wrong_in_other_threads, _by(Line.THREADS)),
    _mutant("order of memory", broken.in_order_of_memory, ULP),
    _mutant("index of 16 bits", broken.index_of_16_bits, ULP),
    _mutant("flat result", broken.flat_result, _by(Line.FORM)),
    _mutant("float32 result", broken.float32_result, _by(Line.FORM, only=(*HALVES, FLOAT64))),
    # dout.
    _mutant("no dout", broken.without_dout, ULP),
    _mutant("first element of dout for all", broken.first_element_of_dout, ULP),
    _mutant("first chunk of dout for all", broken.first_chunk_of_dout, ULP),
    _mutant("dout through float16", broken.dout_through_float16, ULP_WIDE),
    # Another arithmetic.
    _mutant("dout folded into c", broken.combined(lambda d, c, g: d * (c * g)), BITS),
    _mutant(
        "scalar dout folded into c",
        broken.combined(lambda d, c, g: d * c * g if g.ndim else d * (c * g)),
        _by(Line.DOUT),
    ),
    _mutant("dout before c", broken.combined(lambda d, c, g: d * g * c), BITS),
    _mutant("multiply-subtract in one", broken.fused, BITS),
    _mutant("division by N", broken.combined(lambda d, c, g: d * 2 / (2 / c) * g), _by(Line.BITS, only=WIDE)),
    _mutant("double inside", broken.combined(broken.true, wide=np.float64), {d: BITS[d] for d in FROM_FLOAT32}),
    _mutant("tail in double", broken.tail_in_double, _by(Line.BITS, Line.PARTS, only=(FLOAT32,))),
    _mutant("float16 inside", broken.combined(broken.true, wide=np.float16), ULP),
    _mutant("bfloat16 inside", broken.combined(broken.true, wide=BFLOAT16.numpy.type), ULP),
    _mutant(
        "float32 inside", broken.combined(broken.true, wide=np.float32), _by(Line.ULP, Line.CENTRAL, only=(FLOAT64,))
    ),
    _mutant("truncation", broken.rounded(broken.truncated), _by(Line.HALF_EQUAL, Line.HALF_BITS, only=HALVES)),
    _mutant("ties away from zero", broken.rounded(broken.ties_away), _by(Line.HALF_BITS, only=HALVES)),
    # Edges.
    _mutant(
        "subnormals flushed",
        broken.combined(broken.flushing),
        _by(Line.OUTSIDE, Line.EDGES, only=(*WIDE, BFLOAT16)),
    ),
    _mutant(
        "subnormal results flushed",
        broken.changed(broken.flushed_to_float16),
        _by(Line.FALSE_ZEROS, Line.EDGES, only=(FLOAT16,)),
    ),
    _mutant("overflow clamped", broken.changed(broken.clamped_to_float16), _by(Line.EDGES, only=(FLOAT16,))),
    _mutant("NaN to zero", broken.changed(broken.nan_to_zero), _by(Line.OUTSIDE, Line.EDGES)),
    _mutant("-0 lost", broken.changed(lambda y: y + y.dtype.type(0)), _by(Line.EDGES)),
)
