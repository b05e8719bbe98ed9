"""What computes where the device cannot, if the settings say so."""

from __future__ import annotations

import math

from mse_grad.tensor import Array
from mse_grad_server.backends.base import Backend, GradientSpec, OneByOne
from mse_grad_server.metrics import Metrics

__all__ = ["Fallback"]


class Fallback(OneByOne):
    """Another backend of the same bits, whose gradients are counted. Any number of threads."""

    def __init__(self, backend: Backend, metrics: Metrics) -> None:
        self.backend = backend
        self._metrics = metrics

    def compute(
        self,
        spec: GradientSpec,
        predict: Array,
        label: Array,
        dout: Array,
        y: Array,
        *,
        deadline_s: float = math.inf,
    ) -> None:
        """Writes the gradient to `y`; see `Backend.compute`."""
        self.backend.compute(spec, predict, label, dout, y, deadline_s=deadline_s)
        self._metrics.fallback_elements.inc(y.size)
