"""Looks into a share of the gradients for numbers that a training run would stumble over."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count

import numpy as np

from mse_grad.tensor import Array
from mse_grad_server.backends.base import ComputeAll, Failure, Gradient
from mse_grad_server.metrics import Metrics

__all__ = ["OutputSample"]

# What is looked at of one gradient: some 40 us of NumPy, however large the gradient is.
_MOST_ELEMENTS = 4096


class OutputSample:
    """Computes as what it stands in front of, and looks at one call in `every`. Any number of threads."""

    def __init__(self, compute_all: ComputeAll, metrics: Metrics, *, every: int) -> None:
        """Takes what computes.

        Args:
            compute_all: What computes.
            metrics: Counts what was looked at and found.
            every: One of so many calls is looked at, and of that the first gradient.
        """
        self._compute_all = compute_all
        self._metrics = metrics
        self._every = every
        self._calls = count(1)

    def compute_all(self, gradients: Sequence[Gradient]) -> Failure | None:
        """See `Backend.compute_all`."""
        failure = self._compute_all(gradients)
        if failure is None and gradients and next(self._calls) % self._every == 0:
            self._look(gradients[0])
        return failure

    def _look(self, gradient: Gradient) -> None:
        step = -(-gradient.y.size // _MOST_ELEMENTS)
        spec, predict, label, dout, y, _ = gradient
        dtype = spec.dtype.compute
        shown, difference = y[::step].astype(dtype), predict[::step].astype(dtype) != label[::step].astype(dtype)
        scale: Array = dout.astype(dtype) if spec.scalar_dout else dout[::step].astype(dtype)
        underflowed = (shown == 0) & difference & (scale != 0)
        self._metrics.sampled(
            elements=shown.size,
            nonfinite=int(np.count_nonzero(~np.isfinite(shown))),
            underflowed=int(np.count_nonzero(underflowed)),
        )
