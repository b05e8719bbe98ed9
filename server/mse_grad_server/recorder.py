"""Counts and logs the end of every request, whichever way it came."""

from __future__ import annotations

import logging
import math

from structlog.typing import FilteringBoundLogger

from mse_grad.reasons import Reason
from mse_grad.tensor import Reduction
from mse_grad_server.backends.base import GradientSpec
from mse_grad_server.errors import Refused, reason_of
from mse_grad_server.metrics import Metrics

__all__ = ["Recorder"]

_REDUCTIONS = {reduction: reduction.text for reduction in Reduction}


class Recorder:
    """The one place where the end of a request is counted and logged.

    Attributes:
        phases: How long messages spend where.
        traffic: What came and went, by transport.
    """

    def __init__(
        self, metrics: Metrics, log: FilteringBoundLogger, *, logs_every_request: bool, counts_kernel: bool = True
    ) -> None:
        self.phases = metrics.phases
        self.traffic = metrics.traffic
        self._margins = metrics.margins
        self._metrics = metrics
        self._log = log
        # An NPU measures block by block.
        self._counts_kernel = counts_kernel
        # Even a line that is then left out would cost more than the counters.
        self._logs_every_request = logs_every_request

    def succeeded(
        self,
        method: str,
        spec: GradientSpec,
        *,
        seconds: float,
        request_id: str,
        margin_s: float = math.inf,
        trace_id: str = "",
    ) -> None:
        """Counts a request that was answered with its whole gradient.

        Args:
            method: "ComputeGradient" or "StreamGradients".
            spec: What it asked for.
            seconds: How long it was under way.
            request_id: Its name.
            margin_s: How long the caller would still have waited; infinite where it gave no time.
            trace_id: The name of its trace, or "".
        """
        if self._logs_every_request:
            self._log.debug("request_answered", method=method, request_id=request_id, seconds=round(seconds, 6))
        self._metrics.request_ended(
            method, spec.dtype.name, _REDUCTIONS[spec.reduction], "OK", seconds, trace_id=trace_id
        )
        if margin_s != math.inf:
            self._margins.count(margin_s)

    def computed(self, elements: int, *, encode_s: float, kernel_s: float) -> None:
        """Counts what went through the backend, once for each message, and how long that took."""
        self._metrics.elements.inc(elements)
        self.phases.encode.count(encode_s)
        if self._counts_kernel:
            self.phases.kernel.count(kernel_s)

    def computed_in_shared_memory(self, elements: int) -> None:
        """Counts which of them were in shared memory."""
        self._metrics.shared_memory_elements.inc(elements)

    def failed(
        self, method: str, spec: GradientSpec | None, error: BaseException, *, seconds: float, request_id: str
    ) -> None:
        """Counts a request that was not, and logs why.

        Args:
            method: "ComputeGradient" or "StreamGradients".
            spec: What it asked for, or None where that is not known.
            error: What the caller is told; what the caller is not told of an internal error is logged here, once.
            seconds: How long it was under way.
            request_id: Its name.
        """
        self.ended_with_stream(method, spec, error, seconds=seconds)
        self._log_failure("request_failed", method, error, request_id)

    def ended_with_stream(
        self, method: str, spec: GradientSpec | None, error: BaseException, *, seconds: float
    ) -> None:
        """Counts a request that its whole stream took along, which is logged once for all of them."""
        reason = reason_of(error)
        dtype, reduction = (spec.dtype.name, _REDUCTIONS[spec.reduction]) if spec else ("unknown", "unknown")
        self._metrics.request_ended(method, dtype, reduction, reason.code.name, seconds)
        if isinstance(error, Refused):
            self._metrics.refused(reason.value)

    def call_failed(self, method: str, error: BaseException, *, request_id: str) -> None:
        """Logs why an RPC failed that is not itself a request for a gradient."""
        self._log_failure("call_failed", method, error, request_id)

    def _log_failure(self, event: str, method: str, error: BaseException, request_id: str) -> None:
        reason = reason_of(error)
        names = {"method": method, "request_id": request_id, "reason": reason.value}
        if reason is Reason.INTERNAL:
            self._log.error(event, **names, exc_info=error)
            return
        # A caller that is refused, or cancels, often does so by the thousand; the counters tell.
        quiet = isinstance(error, Refused) or reason is Reason.CANCELLED
        self._log.log(logging.DEBUG if quiet else logging.INFO, event, **names, message=str(error))
