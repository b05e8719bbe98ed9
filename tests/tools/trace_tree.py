"""Trace of one gradient as a tree, from the caller's span to the kernel: client and server, spans kept in memory.

PYTHONPATH=tests python -m tools.trace_tree             # computed on the CPU, in a thread
PYTHONPATH=tests python -m tools.trace_tree --durations # and how long each span took here
"""

from __future__ import annotations

import argparse
import asyncio
import io
from collections.abc import Sequence

import numpy as np
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from pydantic import ByteSize

from mse_grad_client import ClientOptions, MseGradClient
from mse_grad_client.tracing import TracingInterceptor
from mse_grad_server.app import Server
from mse_grad_server.process.log import open_log
from mse_grad_server.settings.model import Settings

ELEMENTS = 65_536
METHODS = ("compute", "compute_unary")


async def main(*, durations: bool) -> str:
    """Returns the trees of one gradient by each method."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    # Without inline_bytes even a small gradient waits for a thread, so that the tree has every phase of the CPU.
    settings = Settings(listen="127.0.0.1:0", metrics_listen="none", tracing=True, inline_bytes=ByteSize(0))
    server = Server(settings, open_log("error", "text", stream=io.StringIO()))
    await server.open()
    try:
        await asyncio.to_thread(compute, str(server.address))
    finally:
        await server.drain()
        await server.close()
    return tree(exporter.get_finished_spans(), durations=durations)


def compute(address: str) -> None:
    """Computes within a span of the caller's own."""
    ones = np.ones(ELEMENTS, np.float32)
    options = ClientOptions(interceptors=[TracingInterceptor()])
    with MseGradClient(address, options=options) as client:
        for number, method in enumerate(METHODS):
            with trace.get_tracer("training").start_as_current_span("training step"):
                getattr(client, method)(ones, ones, 1.0, "sum", request_id=f"step-{number}")


def tree(spans: Sequence[ReadableSpan], *, durations: bool) -> str:
    """Returns the spans as text, each below its parent, in the order in which they began."""
    known = {span.context.span_id for span in spans}
    lines = []

    def add(parent: int | None, indent: str) -> None:
        children = [
            span
            for span in spans
            if (span.parent.span_id if span.parent is not None and span.parent.span_id in known else None) == parent
        ]
        for span in sorted(children, key=lambda span: span.start_time or 0):
            name = (span.attributes or {}).get("mse_grad.request_id", "")
            took = f"  {((span.end_time or 0) - (span.start_time or 0)) / 1e3:.0f} us" if durations else ""
            kind = "" if span.kind is trace.SpanKind.INTERNAL else f" [{span.kind.name.lower()}]"
            lines.append(f"{indent}{span.name}{kind}{f'  request_id={name}' if name else ''}{took}")
            add(span.context.span_id, indent + "  ")

    add(None, "")
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--durations", action="store_true", help="print how long each span took")
    print(asyncio.run(main(durations=parser.parse_args().durations)))
