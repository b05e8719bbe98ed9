from __future__ import annotations

import itertools

import grpc
import pytest
from prometheus_client.openmetrics.exposition import generate_latest

from mse_grad.codec import Header
from mse_grad.reasons import Reason
from mse_grad.tensor import DTYPES, Reduction
from mse_grad_server.backends.ascend.acl.error_codes import Fault
from mse_grad_server.backends.ascend.recovery.ladder import Rung
from mse_grad_server.metrics.registry import Metrics
from support.server.raw_stream import chunk, header
from support.server.server_in_loop import Serving, serving


def requests(server: Serving, code: str, *, dtype: str = "float32", reduction: str = "mean") -> float:
    labels = {"method": "StreamGradients", "dtype": dtype, "reduction": reduction, "code": code}
    return server.metric("mse_grad_requests_total", **labels)


async def test_requests_of_a_stream_are_counted_one_by_one() -> None:
    async with serving() as server:
        stream = await server.stream()
        await stream.send([header(id, (2,)) for id in (1, 2)], [chunk(id, 0, [1.0, 2.0]) for id in (1, 2)])
        await stream.receive()
        await stream.send([header(3, (-2,)), header(4, (2,))], [chunk(4, 1, [1.0])])
        await stream.receive()
        assert requests(server, "OK") == 2
        assert requests(server, "INVALID_ARGUMENT", dtype="unknown", reduction="unknown") == 1
        assert requests(server, "INVALID_ARGUMENT") == 1
        assert server.metric("mse_grad_request_seconds_count", method="StreamGradients") == 4
        assert server.metric("mse_grad_elements_total") == 4
        assert server.metric("mse_grad_transferred_bytes_total", direction="in", transport="stream") == 2 * 3 * 8
        assert server.metric("mse_grad_transferred_bytes_total", direction="out", transport="stream") == 2 * 8


async def test_gauges_follow_open_streams_and_requests() -> None:
    async with serving() as server:
        assert server.metric("mse_grad_ready") == 1
        stream = await server.stream()
        assert server.metric("mse_grad_open_streams") == 1
        await stream.send([header(1, (2,)), header(2, (2,))], [chunk(1, 0, [1.0])])
        await stream.receive()
        assert server.metric("mse_grad_in_flight_requests") == 2
        assert server.metric("mse_grad_in_flight_bytes") == 48
        await stream.close()
        await server.until(lambda: server.metric("mse_grad_open_streams") == 0)
        server.assert_nothing_in_flight()


async def test_the_time_of_a_request_runs_from_its_header_to_its_last_gradient() -> None:
    async with serving() as server:
        stream = await server.stream()
        await stream.send([header(1, (2,))], [chunk(1, 0, [1.0])])
        await stream.receive()
        server.clock.advance(3)
        await stream.send((), [chunk(1, 1, [1.0])])
        await stream.receive()
        assert server.metric("mse_grad_request_seconds_sum", method="StreamGradients") == 3
        assert server.metric("mse_grad_request_seconds_bucket", method="StreamGradients", le="2.0") == 0
        assert server.metric("mse_grad_request_seconds_bucket", method="StreamGradients", le="5.0") == 1


async def test_the_build_info_names_backend_and_device() -> None:
    async with serving() as server:
        (line,) = [line for line in server.metrics_text().splitlines() if line.startswith("mse_grad_build_info{")]
        for label in ('backend="cpu"', 'device="fake"', 'kernel_hash="00"', 'soc=""', 'cann=""'):
            assert label in line
        assert line.endswith("} 1.0")


async def test_every_name_has_its_unit() -> None:
    async with serving() as server:
        families = list(server.server.metrics.registry.collect())
        assert all(family.name.startswith(("mse_grad_", "process_")) and family.documentation for family in families)


async def test_process_metrics_have_their_usual_names() -> None:
    async with serving() as server:
        assert server.metric("process_resident_memory_bytes") > 2**20
        assert server.metric("process_cpu_seconds_total") > 0
        assert server.metric("process_open_fds") > 0


def samples(metrics: Metrics) -> list[str]:
    """Returns the name of every series."""
    return [sample.name for family in metrics.registry.collect() for sample in family.samples]


def test_whatever_happens_a_worker_has_at_most_400_series() -> None:
    metrics = Metrics()
    dtypes = (*(dtype.name for dtype in DTYPES), "unknown")
    reductions = (*(reduction.text for reduction in Reduction), "unknown")
    for method, dtype, reduction, code in itertools.product(
        ("ComputeGradient", "StreamGradients"), dtypes, reductions, {reason.code.name for reason in Reason} | {"OK"}
    ):
        metrics.requests.ended(method, dtype, reduction, code, 1)
    for reason in Reason:
        if reason.retryable:
            metrics.refused(reason.value)
        if reason.code is grpc.StatusCode.UNAUTHENTICATED or reason is Reason.SCOPE_MISSING:
            metrics.unauthenticated(reason.value)
        if reason.value.startswith("SHARED_MEMORY"):
            metrics.shared_memory_refused(reason.value)
        if reason.value.startswith("DIRECT"):
            metrics.direct_refused(reason.value)
    for fault in (*(fault.value for fault in Fault), "wrong_gradient"):
        metrics.device_fault(fault)
    for rung in Rung:
        metrics.device_climbed(rung.name.lower())
        metrics.device_repaired(rung.name.lower(), 1)
    for step in ("listen", "libraries", "device", "self_check", "backend", "verify"):
        metrics.started(step, 1)
    for file in ("server", "client_ca"):
        metrics.certificate_expires(file, 1)
    metrics.built(version="1", backend="ascend", device="x", kernel_hash="00")
    assert len(samples(metrics)) <= 400, (
        "drop labels or series; or raise the bound here, in Metrics and docs/metrics.md"
    )


def test_combinations_beyond_the_bound_count_as_other() -> None:
    metrics = Metrics()
    for number in range(200):
        for _ in range(2):
            metrics.requests.ended("StreamGradients", f"dtype{number}", "mean", "OK", 1)
    counts = [
        (sample.labels["dtype"], sample.value)
        for family in metrics.registry.collect()
        for sample in family.samples
        if sample.name == "mse_grad_requests_total"
    ]
    assert sum(count for _, count in counts) == 400
    assert dict(counts)["dtype0"] == 2
    assert dict(counts)["other"] == 400 - 2 * (len(counts) - 1)


def test_only_metrics_without_labels_have_created_samples() -> None:
    metrics = Metrics()
    metrics.refused("SERVER_BUSY")
    created = {name for name in samples(metrics) if name.endswith("_created")}
    assert "mse_grad_elements_created" in created
    assert "mse_grad_refusals_created" not in created


async def test_a_message_is_decoded_encoded_and_computed() -> None:
    async with serving() as server:
        stream = await server.stream()
        await stream.send([header(id, (2,)) for id in (1, 2)], [chunk(id, 0, [1.0, 2.0]) for id in (1, 2)])
        await stream.receive()
        for phase, count in (("decode", 1), ("encode", 1), ("kernel", 1), ("copy_in", 0), ("copy_out", 0)):
            assert server.metric("mse_grad_phase_seconds_count", phase=phase) == count


async def test_a_message_that_needs_a_thread_counts_as_queued() -> None:
    async with serving(inline_bytes=0, compute_threads=1) as server:
        server.backend.gate.clear()
        stream = await server.stream()
        await stream.send([header(1, (2,))], [chunk(1, 0, [1.0, 2.0])])
        await stream.send([header(2, (2,))], [chunk(2, 0, [1.0, 2.0])])
        await server.until(lambda: server.metric("mse_grad_queued_messages") == 1)
        server.backend.gate.set()
        await server.until(lambda: server.metric("mse_grad_in_flight_requests") == 0)
        assert server.metric("mse_grad_queued_messages") == 0
        # One more thread opened the backend.
        assert server.metric("mse_grad_phase_seconds_count", phase="queue") == 3


async def test_a_gradient_in_time_leaves_a_margin() -> None:
    async with serving() as server:
        stream = await server.stream()
        await stream.send([Header(1, 1, (2,), 2, time_left_us=3_000_000)], [chunk(1, 0, [1.0])])
        await stream.receive()
        server.clock.advance(1)
        await stream.send((), [chunk(1, 1, [1.0])])
        await stream.send([header(2, (1,))], [chunk(2, 0, [1.0])])
        await stream.receive()
        await server.until(lambda: server.metric("mse_grad_in_flight_requests") == 0)
        assert server.metric("mse_grad_deadline_margin_seconds_count") == 1
        assert server.metric("mse_grad_deadline_margin_seconds_sum") == pytest.approx(2)


async def test_a_traced_request_is_the_exemplar_of_its_bucket() -> None:
    trace = "0af7651916cd43dd8448eb211c80319c"
    traceparent = f"00-{trace}-b7ad6b7169203331-01"
    async with serving() as server:
        stream = await server.stream()
        await stream.send([Header(1, 1, (1,), 2, traceparent=traceparent)], [chunk(1, 0, [1.0])])
        await stream.receive()
        page = generate_latest(server.server.metrics.registry).decode()  # type: ignore[no-untyped-call]
        assert f'# {{trace_id="{trace}"}}' in page
        assert page.endswith("# EOF\n")


async def test_the_steps_of_the_start_are_timed() -> None:
    async with serving() as server:
        for step in ("listen", "backend", "verify"):
            assert server.metric("mse_grad_start_seconds", step=step) >= 0
