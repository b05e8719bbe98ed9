"""Record of ended requests in metrics and log, for every transport."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from copy import copy
from typing import NamedTuple

from structlog.typing import FilteringBoundLogger

from mse_grad.metadata import NO_METADATA
from mse_grad.reasons import Reason
from mse_grad.tensor import Reduction
from mse_grad_server.backends.base import GradientSpec
from mse_grad_server.errors import Refused, reason_of
from mse_grad_server.metrics.callers import CallerTotals
from mse_grad_server.metrics.registry import Metrics
from mse_grad_server.metrics.tracing import Tracing
from mse_grad_server.process.timeline import Timeline

__all__ = ["Origin", "Recorder"]

_REDUCTIONS = {reduction: reduction.text for reduction in Reduction}


class Origin(NamedTuple):
    """Name, words and trace of one request.

    Attributes:
        request_id: Request id that the caller sent, or one that the server made.
        metadata: The caller's own words, within their bounds; for logs and traces alone.
        trace_id: Id of the trace that the request belongs to; "" for none.
        timeline: Its phases, if spans are made of it; else None.
        peer: Address of a caller whose token was refused; else "".
    """

    request_id: str
    metadata: Mapping[str, str] = NO_METADATA
    trace_id: str = ""
    timeline: Timeline | None = None
    peer: str = ""


class Recorder:
    """Counts and logs the end of every request.

    Args:
        metrics: The metrics of the server.
        log: Receives one line for each failed request.
        logs_every_request: Whether successful requests are logged too, at debug.
        counts_kernel: Whether messages count in the phase `kernel`; an NPU measures that phase block by block.
        tracing: Makes spans of traced requests; None to make none.

    Attributes:
        counts_kernel: As given.
        phases: Time of messages by phase.
        traffic: Transferred elements and bytes by transport.
    """

    def __init__(
        self,
        metrics: Metrics,
        log: FilteringBoundLogger,
        *,
        logs_every_request: bool,
        counts_kernel: bool = True,
        tracing: Tracing | None = None,
    ) -> None:
        self.phases = metrics.phases
        self.traffic = metrics.traffic
        self._margins = metrics.margins
        self._requests = metrics.requests
        self._metrics = metrics
        self._log = log
        self.counts_kernel = counts_kernel
        self._tracing = tracing
        # Checked here because a debug line that is filtered out still costs more than the counters.
        self._logs_every_request = logs_every_request
        self._totals: CallerTotals | None = None
        self._of: dict[str, Recorder] = {}

    def of(self, caller: str) -> Recorder:
        """Returns the recorder for a caller's requests; this one for a caller without a name.

        Args:
            caller: Name of the caller's token, which the log and the metrics then have; "" for none.
        """
        if not caller:
            return self
        recorder = self._of.get(caller)
        if recorder is None:
            recorder = self._of[caller] = copy(self)
            recorder._log = self._log.bind(caller=caller)
            recorder._totals = self._metrics.callers.of(caller)
        return recorder

    def timeline(self, traceparent: str, now_s: float) -> Timeline | None:
        """Returns a timeline for a request that begins now, if its spans are wanted."""
        return self._tracing.begin(traceparent, now_s) if self._tracing is not None and traceparent else None

    def succeeded(
        self,
        method: str,
        spec: GradientSpec,
        *,
        seconds: float,
        origin: Origin,
        margin_s: float = math.inf,
    ) -> None:
        """Counts a request whose whole gradient was sent.

        Args:
            method: "ComputeGradient" or "StreamGradients".
            spec: The requested gradient.
            seconds: Time from its arrival to its last answer.
            origin: Its name, words and trace.
            margin_s: Time left until its deadline; infinite if it had none.
        """
        if self._logs_every_request:
            self._log.debug(
                "request_answered",
                method=method,
                request_id=origin.request_id,
                seconds=round(seconds, 6),
                **_logged(origin.metadata),
            )
        self._requests.ended(
            method, spec.dtype.name, _REDUCTIONS[spec.reduction], "OK", seconds, trace_id=origin.trace_id
        )
        if self._totals is not None:
            self._totals.answered += 1
        if margin_s != math.inf:
            self._margins.observe_unlocked(margin_s)
        if origin.timeline is not None:
            self._trace(origin.timeline, method, spec, "OK", seconds, origin)

    def computed(self, elements: int, *, encode_s: float, kernel_s: float) -> None:
        """Counts the elements that the backend computed for one message, and the time that this took."""
        self._metrics.elements.inc(elements)
        self.phases.encode.observe_unlocked(encode_s)
        if self.counts_kernel:
            self.phases.kernel.observe_unlocked(kernel_s)

    def computed_in_shared_memory(self, elements: int) -> None:
        """Counts computed elements that were in shared memory."""
        self._metrics.shared_memory_elements.inc(elements)

    def failed(
        self,
        method: str,
        spec: GradientSpec | None,
        error: BaseException,
        *,
        seconds: float,
        origin: Origin,
    ) -> None:
        """Counts a failed request and logs the reason.

        Args:
            method: "ComputeGradient" or "StreamGradients".
            spec: The requested gradient, or None if it is not known.
            error: The error that the caller gets. The details of an internal error appear only in this log line.
            seconds: Time from its arrival to its last answer.
            origin: Its name, words and trace.
        """
        self.ended_with_stream(method, spec, error, seconds=seconds)
        if origin.timeline is not None:
            self._trace(origin.timeline, method, spec, reason_of(error).code.name, seconds, origin)
        self._log_failure("request_failed", method, error, origin)

    def ended_with_stream(
        self, method: str, spec: GradientSpec | None, error: BaseException, *, seconds: float
    ) -> None:
        """Counts a request that failed because its stream failed; that failure is logged once, not for each request."""
        reason = reason_of(error)
        dtype, reduction = (spec.dtype.name, _REDUCTIONS[spec.reduction]) if spec else ("unknown", "unknown")
        self._requests.ended(method, dtype, reduction, reason.code.name, seconds)
        if self._totals is not None:
            self._totals.failed += 1
        if isinstance(error, Refused):
            self._metrics.refused(reason.value)

    def _trace(
        self, timeline: Timeline, method: str, spec: GradientSpec | None, code: str, seconds: float, origin: Origin
    ) -> None:
        if self._tracing is not None:
            self._tracing.end(
                timeline,
                method=method,
                spec=spec,
                code=code,
                request_id=origin.request_id,
                metadata=origin.metadata,
                ended_s=timeline.began_s + seconds,
            )

    def call_failed(self, method: str, error: BaseException, *, request_id: str, peer: str = "") -> None:
        """Logs the failure of an RPC that is not itself a request for a gradient; see Origin for `peer`."""
        self._log_failure("call_failed", method, error, Origin(request_id, peer=peer))

    def _log_failure(self, event: str, method: str, error: BaseException, origin: Origin) -> None:
        reason = reason_of(error)
        names = {"method": method, "request_id": origin.request_id, "reason": reason.value, **_logged(origin.metadata)}
        if origin.peer:
            names["peer"] = origin.peer
        if reason is Reason.INTERNAL:
            self._log.error(event, **names, exc_info=error)
            return
        # Refusals and cancellations often come by the thousand; counters report them.
        quiet = isinstance(error, Refused) or reason is Reason.CANCELLED
        if isinstance(error, MemoryError):
            self._log.warning(event, **names, message="no memory is left for the request")
            return
        self._log.log(logging.DEBUG if quiet else logging.INFO, event, **names, message=str(error))


def _logged(metadata: Mapping[str, str]) -> dict[str, str]:
    """Returns the field of a log line for `metadata`: one text, which the log cuts and cleans like any other."""
    return {"metadata": ", ".join(f"{key}={value}" for key, value in metadata.items())} if metadata else {}
