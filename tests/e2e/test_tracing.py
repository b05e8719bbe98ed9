"""Traces from the caller to the kernel, and OpenTelemetry imported by nobody who has not asked for it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FRAME = """
import sys, asyncio, io
import numpy as np
from mse_grad_client import MseGradClient
from mse_grad_client.testing import FakeServer
from mse_grad_server.app import Server
{body}
print(sorted(name for name in sys.modules if name.startswith("opentelemetry")))
"""


def run(*command: str) -> str:
    ended = subprocess.run([sys.executable, *command], capture_output=True, text=True, timeout=100, cwd=ROOT)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def test_one_tree_leads_from_the_caller_to_the_kernel_and_the_docs_show_it() -> None:
    shown = re.search(
        r"<!-- python -m tools.trace_tree -->\n```\n(.*?)```", (ROOT / "docs/sdk.md").read_text(), re.DOTALL
    )
    assert shown is not None
    assert (
        run(
            "-c",
            f"import sys, runpy; sys.path.insert(0, {str(ROOT / 'tests')!r}); sys.argv = ['trace_tree']; "
            "runpy.run_module('tools.trace_tree', run_name='__main__')",
        )
        == shown[1]
    )


def test_nothing_imports_opentelemetry_by_itself() -> None:
    body = "with FakeServer() as server, server.client() as client: client.compute(np.ones(3), np.ones(3), 1.0)"
    assert run("-c", FRAME.format(body=body)).splitlines()[-1] == "[]"


def test_tracing_without_the_package_is_refused_with_advice() -> None:
    body = """
import importlib.abc
class Hidden(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.startswith("opentelemetry"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Hidden())
from mse_grad_server.metrics.tracing import Tracing
from mse_grad_server.process.exits import SettingsError
try:
    Tracing.open()
except SettingsError as error:
    print(error)
"""
    assert "mse-grad[otel]" in run("-c", FRAME.format(body=body))


@pytest.mark.parametrize("flag", ["00", "01"])
def test_a_current_span_reaches_the_server_without_an_interceptor(flag: str) -> None:
    body = f"""
from opentelemetry import trace
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags
context = SpanContext(0xabc, 0xdef, is_remote=False, trace_flags=TraceFlags(int({flag!r})))
with FakeServer() as server, server.client() as client, trace.use_span(NonRecordingSpan(context)):
    client.compute(np.ones(3), np.ones(3), 1.0)
    client.compute_unary(np.ones(3), np.ones(3), 1.0)
    client.compute_many([(np.ones(3), np.ones(3), 1.0)])
    print(*(request.traceparent for request in server.requests))
"""
    (line, _) = run("-c", FRAME.format(body=body)).splitlines()
    assert line.split() == [f"00-{0xABC:032x}-{0xDEF:016x}-{flag}"] * 3


def test_the_spans_of_a_failed_request_are_errors_on_both_sides() -> None:
    body = """
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from mse_grad_client import ClientOptions, MseGradError
from mse_grad_client.tracing import TracingInterceptor
from mse_grad_server.process.log import open_log
from mse_grad_server.settings.model import Settings
exporter, provider = InMemorySpanExporter(), TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(exporter))
trace.set_tracer_provider(provider)

def call(address):
    ones = np.ones(400, np.float32)
    with MseGradClient(address, options=ClientOptions(interceptors=[TracingInterceptor()])) as client:
        with trace.get_tracer("training").start_as_current_span("step"):
            try:
                client.compute_unary(ones, ones, 1.0)
            except MseGradError as error:
                print(type(error).__name__)

async def main():
    settings = Settings(listen="127.0.0.1:0", metrics_listen="none", tracing=True, max_unary_bytes=1024)
    server = Server(settings, open_log("error", "text", stream=io.StringIO()))
    await server.open()
    try:
        await asyncio.to_thread(call, str(server.address))
    finally:
        await server.drain()
        await server.close()

asyncio.run(main())
for span in exporter.get_finished_spans():
    print(span.name, span.status.status_code.name, span.status.description)
"""
    error, served, called, *_ = run("-c", FRAME.format(body=body)).splitlines()
    assert error == "ResourceExhausted"
    assert served == "mse_grad.v1.MseGradService/ComputeGradient ERROR RESOURCE_EXHAUSTED"
    assert called.startswith("mse_grad.compute_unary ERROR ResourceExhausted: MESSAGE_TOO_LARGE")
