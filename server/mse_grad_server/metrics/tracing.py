"""Spans of OpenTelemetry for requests whose callers trace them, each with its phases below it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from mse_grad.methods import SERVICE
from mse_grad.version import VERSION
from mse_grad_server.backends.base import GradientSpec
from mse_grad_server.process.exits import SettingsError
from mse_grad_server.process.timeline import Timeline

__all__ = ["Tracing"]

_TRACE = "opentelemetry.trace"
_PROPAGATION = "opentelemetry.trace.propagation.tracecontext"


class Tracing:
    """Makes spans when a request has ended, of the times that were kept until then. Belongs to the event loop.

    A request without a sampled trace costs nothing. Where the spans go is up to OpenTelemetry's own configuration of
    this process, for example by `opentelemetry-instrument`.

    Args:
        trace: The module `opentelemetry.trace`.
        propagator: Reader of W3C trace contexts.
        provider: Provider of tracers; None for the one of the process.
    """

    def __init__(self, trace: Any, propagator: Any, *, provider: Any = None) -> None:
        self._trace = trace
        self._propagator = propagator
        self._tracer = trace.get_tracer(__name__, VERSION, tracer_provider=provider)

    @classmethod
    def open(cls, provider: Any = None) -> Tracing:
        """Imports OpenTelemetry, which nothing else does; raises SettingsError if it is not installed."""
        try:
            return cls(
                import_module(_TRACE), import_module(_PROPAGATION).TraceContextTextMapPropagator(), provider=provider
            )
        except ModuleNotFoundError as cause:
            raise SettingsError(
                f"tracing needs the package opentelemetry-api: install 'mse-grad[otel]' ({cause})"
            ) from cause

    def begin(self, traceparent: str, now_s: float) -> Timeline | None:
        """Returns a timeline for a request that its caller samples, or None.

        Args:
            traceparent: W3C trace context, unchecked.
            now_s: When the request arrived, in the time of `time.monotonic`.
        """
        parent = self._propagator.extract({"traceparent": traceparent})
        context = self._trace.get_current_span(parent).get_span_context()
        return Timeline(parent, now_s) if context.is_valid and context.trace_flags.sampled else None

    def end(
        self,
        timeline: Timeline,
        *,
        method: str,
        spec: GradientSpec | None,
        code: str,
        request_id: str,
        metadata: Mapping[str, str],
        ended_s: float,
    ) -> None:
        """Makes the spans of a request that has ended.

        Args:
            timeline: Its phases.
            method: "ComputeGradient" or "StreamGradients".
            spec: The requested gradient, or None if it is not known.
            code: Name of the gRPC code that it ended with.
            request_id: The id of the request, which every span has.
            metadata: The caller's own words.
            ended_s: When it ended, in the time of `time.monotonic`.
        """
        trace, tracer = self._trace, self._tracer
        offset_ns = time.time_ns() - time.monotonic_ns()
        named = {"mse_grad.request_id": request_id}
        attributes = {
            **named,
            "rpc.system": "grpc",
            "rpc.service": SERVICE,
            "rpc.method": method,
            **{f"mse_grad.metadata.{key}": value for key, value in metadata.items()},
        }
        if spec is not None:
            attributes["mse_grad.dtype"] = spec.dtype.name
            attributes["mse_grad.reduction"] = spec.reduction.text
        if timeline.dropped:
            attributes["mse_grad.dropped_phases"] = str(timeline.dropped)
        span = tracer.start_span(
            f"{SERVICE}/{method}",
            context=timeline.parent,
            kind=trace.SpanKind.SERVER,
            attributes=attributes,
            start_time=_ns(timeline.began_s, offset_ns),
        )
        inside = trace.set_span_in_context(span)
        for name, began_s, phase_ended_s in sorted(timeline.phases, key=lambda phase: phase.began_s):
            phase = tracer.start_span(name, context=inside, attributes=named, start_time=_ns(began_s, offset_ns))
            phase.end(_ns(phase_ended_s, offset_ns))
        if code != "OK":
            span.set_status(trace.StatusCode.ERROR, code)
        span.end(_ns(ended_s, offset_ns))


def _ns(time_s: float, offset_ns: int) -> int:
    return round(time_s * 1e9) + offset_ns
