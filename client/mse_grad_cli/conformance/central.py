"""Check that the result is a gradient at all, by central differences of the loss in float64."""

from __future__ import annotations

import numpy as np

from mse_grad.tensor import FLOAT64, Array, Reduction
from mse_grad_cli.conformance.case import Case, Compute, make_case
from mse_grad_cli.conformance.report import Line, Row

__all__ = ["central_differences"]

STEP = 2.0**-12
LIMIT = 1e-9


def central_differences(compute: Compute, *, seed: int) -> Row:
    """Returns the row of line 6: the largest error, relative to the largest element of the gradient.

    The loss is quadratic, so central differences have only rounding errors.

    Args:
        compute: Implementation under test; must accept float64.
        seed: Seed of all data.
    """
    rng = np.random.default_rng([seed, 6])
    worst = 0.0
    for shape in ((), (1,), (33,), (5, 7)):
        for reduction in Reduction:
            for dout in ("full", "rank 0", "number"):
                case = make_case(rng, FLOAT64, shape, reduction=reduction, dout=dout)
                wanted = _differences(case)
                error = np.max(np.abs(case.run(compute).reshape(-1) - wanted)) / np.max(np.abs(wanted))
                worst = max(worst, float(error) if np.isfinite(error) else np.inf)
    return Row(FLOAT64.name, Line.CENTRAL, worst, LIMIT)


def _differences(case: Case) -> Array:
    predict = case.predict.reshape(-1).astype(np.longdouble)
    label = case.label.reshape(-1).astype(np.longdouble)
    dout = np.broadcast_to(np.asarray(case.dout, np.longdouble).reshape(-1), predict.shape)
    steps = np.eye(predict.size, dtype=np.longdouble) * STEP
    rise = [
        _loss(predict + step, label, dout, case.reduction) - _loss(predict - step, label, dout, case.reduction)
        for step in steps
    ]
    return np.asarray(rise, np.longdouble) / (2 * STEP)


def _loss(predict: Array, label: Array, dout: Array, reduction: Reduction) -> np.longdouble:
    """The loss, weighted by the upstream gradient."""
    squares = dout * (predict - label) ** 2
    total: np.longdouble = np.mean(squares) if reduction is Reduction.MEAN else np.sum(squares)
    return total
