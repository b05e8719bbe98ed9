"""Tracing: client spans of OpenTelemetry, printed as they end.

`pip install opentelemetry-sdk`, `make serve` in another terminal, then `.venv/bin/python client/examples/tracing.py`.
A server with `--tracing` adds its own spans of queue, encode and kernel to the same trace.
"""

from __future__ import annotations

import sys

import numpy as np
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor

from mse_grad_client import ClientOptions, MseGradClient
from mse_grad_client.tracing import TracingInterceptor


def main(address: str = "127.0.0.1:50051") -> None:
    """Computes one gradient on the server at `address`, within a span."""
    provider = TracerProvider()
    provider.add_span_processor(
        SimpleSpanProcessor(ConsoleSpanExporter(formatter=lambda span: f"{span.name}: {dict(span.attributes or {})}\n"))
    )
    trace.set_tracer_provider(provider)
    options = ClientOptions(interceptors=[TracingInterceptor()])
    ones = np.ones((2, 3), np.float32)
    tracer = trace.get_tracer("training")
    with MseGradClient(address, options=options) as client, tracer.start_as_current_span("training step"):
        client.compute(ones, ones, 1.0, request_id="step-1", metadata={"run": "7"})


if __name__ == "__main__":
    main(*sys.argv[1:])
