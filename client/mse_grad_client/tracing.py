"""Client spans of OpenTelemetry, as an interceptor; needs the extra `otel`, which nothing else imports."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from opentelemetry import trace

from mse_grad.version import VERSION
from mse_grad_client.interceptor import CallInfo, Interceptor

__all__ = ["TracingInterceptor"]


class TracingInterceptor(Interceptor):
    """Makes a span of each call, below the caller's current span; the server's spans lie below it. Thread-safe.

    Without it the SDK still tells the server the caller's current span, as soon as a program has imported
    `opentelemetry.trace`.

    Example:
        MseGradClient(address, options=ClientOptions(interceptors=[TracingInterceptor()]))

    Args:
        tracer_provider: Provider of the tracer; None for the one of the process.
    """

    def __init__(self, tracer_provider: Any = None) -> None:
        self._tracer = trace.get_tracer(__name__, VERSION, tracer_provider=tracer_provider)

    @contextmanager
    def intercept(self, call: CallInfo) -> Iterator[None]:
        """Runs the call in a span with its shape, dtype, reduction and request id; an error ends it as failed."""
        attributes: dict[str, Any] = {"mse_grad.request_id": call.request_id}
        if call.shape is not None:
            attributes["mse_grad.shape"] = call.shape
            attributes["mse_grad.dtype"] = call.dtype
        if call.reduction:
            attributes["mse_grad.reduction"] = call.reduction
        with self._tracer.start_as_current_span(
            f"mse_grad.{call.method}", kind=trace.SpanKind.CLIENT, attributes=attributes
        ):
            yield
