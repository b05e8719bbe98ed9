"""Threads that share a client: they get the bits of the formula."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from itertools import islice

import numpy as np
import pytest

from mse_grad.tensor import DType
from mse_grad_cli.conformance import Case, cases, make_case, same_bits
from mse_grad_client import MseGradClient
from support.numerics.compute import formula_compute


@pytest.fixture(scope="module")
def many(dtypes: tuple[DType, ...]) -> list[tuple[Case, bytes]]:
    """Cases of every dtype, and some with many chunks, with their gradients by the formula."""
    rng = np.random.default_rng(11)
    chosen = [case for dtype in dtypes for case in islice(cases(dtype, quick=True), 0, None, 5)]
    chosen += [make_case(rng, dtype, (300_001,)) for dtype in dtypes for _ in range(2)]
    return [(case, case.run(formula_compute).tobytes()) for case in chosen]


def test_eight_threads_on_one_client(any_client: MseGradClient, many: list[tuple[Case, bytes]]) -> None:
    def differs(pair: tuple[Case, bytes]) -> bool:
        case, wanted = pair
        y = case.run(any_client.compute)
        return not same_bits(y.reshape(-1), np.frombuffer(wanted, case.dtype.numpy)).all()

    with ThreadPoolExecutor(8) as pool:
        assert not any(pool.map(differs, many))


def test_a_thread_on_the_stream_and_one_on_unary_calls(
    any_client: MseGradClient, many: list[tuple[Case, bytes]]
) -> None:
    with ThreadPoolExecutor(2) as pool:
        streamed = pool.submit(lambda: [case.run(any_client.compute) for case, _ in many])
        called = pool.submit(lambda: [case.run(any_client.compute_unary) for case, _ in many])
        for (case, _), a, b in zip(many, streamed.result(), called.result(), strict=True):
            assert same_bits(a.reshape(-1), b.reshape(-1)).all(), str(case)
