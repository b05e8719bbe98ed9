"""Two implementations next to each other."""

from __future__ import annotations

import numpy as np

from mse_grad.tensor import BFLOAT16, FLOAT16, FLOAT32, Array
from mse_grad_cli.conformance import Dout, compare
from support.numerics.compute import formula_compute


def narrow_compute(predict: Array, label: Array, dout: Dout, reduction: str) -> Array:
    """Rounds after each operation, as a computation in the dtype of the operands does."""
    with np.errstate(all="ignore"):
        c = np.asarray(2 / predict.size if reduction == "mean" else 2, predict.dtype)
        y: Array = ((predict - label) * c * np.asarray(dout, predict.dtype)).astype(predict.dtype)
        return y.reshape(predict.shape)


def test_the_formula_equals_itself_everywhere() -> None:
    (found,) = compare(formula_compute, formula_compute, dtypes=[FLOAT32], quick=True)
    assert (found.dtype, found.equal_percent, found.distance_ulp) == ("float32", 100, 0)
    assert found.own_ulp == found.peer_ulp > 0
    assert found.cases > 50
    assert found.elements > 100_000


def test_an_implementation_that_rounds_more_often_is_further_from_the_golden() -> None:
    for found in compare(formula_compute, narrow_compute, dtypes=[FLOAT16, BFLOAT16], quick=True):
        assert found.own_ulp <= 1 < found.peer_ulp
        assert found.distance_ulp > 0
        assert 0 < found.equal_percent < 100
