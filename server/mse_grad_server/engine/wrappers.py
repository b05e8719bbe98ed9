"""Wrappers of a backend: the count of fallback gradients, and the inspection of sampled gradients."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count

import numpy as np
from typing_extensions import override

from mse_grad.tensor import Array
from mse_grad_server.backends.base import Backend, ComputeAll, Failure, Gradient, OneByOne
from mse_grad_server.metrics.registry import Metrics

__all__ = ["Fallback", "OutputSample"]

# Elements of one gradient that are inspected: about 40 us of NumPy, however large the gradient is.
_MOST_ELEMENTS = 4096


class Fallback(OneByOne):
    """Counts the elements that the fallback backend computes in place of the device. Any thread may use it."""

    def __init__(self, backend: Backend, metrics: Metrics) -> None:
        self.backend = backend
        self._metrics = metrics

    @override
    def compute(self, gradient: Gradient) -> None:
        self.backend.compute(gradient)
        self._metrics.fallback_elements.inc(gradient.y.size)


class OutputSample:
    """Counts infinite, NaN and underflowed elements in a sample of the gradients. Any thread may use it.

    Args:
        compute_all: Computes the gradients.
        metrics: Receives the counts.
        every: One call in `every` is inspected, and of that call the first gradient.
    """

    def __init__(self, compute_all: ComputeAll, metrics: Metrics, *, every: int) -> None:
        self._compute_all = compute_all
        self._metrics = metrics
        self._every = every
        self._calls = count(1)

    def compute_all(self, gradients: Sequence[Gradient]) -> Failure | None:
        """Computes `gradients` as `Backend.compute_all` does."""
        failure = self._compute_all(gradients)
        if failure is None and gradients and next(self._calls) % self._every == 0:
            self._inspect(gradients[0])
        return failure

    def _inspect(self, gradient: Gradient) -> None:
        step = -(-gradient.y.size // _MOST_ELEMENTS)
        spec, predict, label, dout, y = gradient[:5]
        dtype = spec.dtype.compute
        shown, difference = y[::step].astype(dtype), predict[::step].astype(dtype) != label[::step].astype(dtype)
        scale: Array = dout.astype(dtype) if spec.scalar_dout else dout[::step].astype(dtype)
        underflowed = (shown == 0) & difference & (scale != 0)
        self._metrics.sampled(
            elements=shown.size,
            nonfinite=int(np.count_nonzero(~np.isfinite(shown))),
            underflowed=int(np.count_nonzero(underflowed)),
        )
