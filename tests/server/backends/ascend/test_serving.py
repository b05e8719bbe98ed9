"""The whole server on the simulated device: answers, faults, the circuit, the fallback, the shutdown."""

from __future__ import annotations

import asyncio
import io
import os
import signal

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc

from mse_grad.reasons import Reason
from mse_grad.tensor import BFLOAT16, FLOAT16, FLOAT32, FLOAT64, Array, DType
from mse_grad.v1 import mse_grad_pb2 as pb
from mse_grad_server import lifecycle
from mse_grad_server.backends.ascend.device.blocks import DTYPES as DTYPES_ON_DEVICE
from mse_grad_server.process.exits import ExitCode
from mse_grad_server.process.log import open_log
from support.npu.runtime import AscendRuntime
from support.npu.serving import serving, settings_of
from support.server.raw_stream import RawStream, chunk, detail, gradient, header, reason_of
from support.server.server_in_loop import Serving
from support.waiting import until


def unary_request(values: Array, dtype: DType) -> bytes:
    """Returns a message of ComputeGradient with `values` for all three operands."""
    tensor = pb.Tensor(dtype=pb.DataType.Name(dtype.wire), shape=list(values.shape), data=values.tobytes())
    return pb.ComputeGradientRequest(
        predict=tensor, label=tensor, dout=tensor, reduction=pb.REDUCTION_SUM
    ).SerializeToString()


async def compute(stream: RawStream, id: int) -> bool:
    """Sends a small gradient and checks its bits; returns whether the fallback computed it."""
    values = np.arange(1, 1000, dtype=np.float32)
    await stream.send([header(id, (999,))], [chunk(id, 0, values)])
    response = await stream.receive()
    assert not response.errors, response.errors
    (result,) = response.results
    np.testing.assert_array_equal(np.frombuffer(result.y, np.float32), gradient(values))
    return result.fallback


async def refused(stream: RawStream, id: int) -> float:
    """Sends a small gradient and checks that the device refuses it; returns the retry delay in seconds."""
    await stream.send([header(id, (2,))], [chunk(id, 0, [1.0, 2.0])])
    response = await stream.receive()
    (error,) = response.errors
    assert (error.id, reason_of(error.status)) == (id, Reason.DEVICE_UNAVAILABLE)
    retry: error_details_pb2.RetryInfo = detail(error.status, error_details_pb2.RetryInfo)
    return float(retry.retry_delay.ToMilliseconds() / 1000)


async def health(server: Serving) -> int:
    answer = await health_pb2_grpc.HealthStub(server.channel).Check(health_pb2.HealthCheckRequest())
    return int(answer.status)


async def info(server: Serving) -> pb.GetServerInfoResponse:
    return pb.GetServerInfoResponse.FromString(await server.call("GetServerInfo", b""))


async def test_the_chunks_of_a_mean_are_parts_of_the_whole(runtime: AscendRuntime) -> None:
    values = np.linspace(-3, 3, 100_001, dtype=np.float32)
    async with serving(runtime) as server:
        stream = await server.stream()
        await stream.send([header(1, (100_001,))])
        for start in range(0, 100_001, 30_000):
            await stream.send((), [chunk(1, start, values[start : start + 30_000])])
        np.testing.assert_array_equal(await stream.receive_gradient(1, 100_001), gradient(values))
        await stream.close()
        assert server.metric("mse_grad_device_blocks_total") >= 4


@pytest.mark.parametrize("dtype", [FLOAT32, FLOAT16, BFLOAT16], ids=lambda dtype: dtype.name)
async def test_a_whole_tensor_is_answered_through_the_device(runtime: AscendRuntime, dtype: DType) -> None:
    request = unary_request(np.asarray([1, 2, 3], dtype.numpy), dtype)
    async with serving(runtime) as server:
        answer = await server.call("ComputeGradient", request)
        response = pb.ComputeGradientResponse.FromString(answer)
        assert response.y.data == bytes(3 * dtype.itemsize_bytes)
        assert not response.fallback


async def test_float64_is_refused_with_the_known_dtypes(runtime: AscendRuntime) -> None:
    async with serving(runtime) as server:
        stream = await server.stream()
        await stream.send([header(1, (1,), dtype=FLOAT64.wire)])
        (error,) = (await stream.receive()).errors
        assert reason_of(error.status) is Reason.DTYPE_NOT_ON_BACKEND
        assert "float32, float16, bfloat16" in error.status.message


async def test_the_server_reports_its_device_and_kernels(runtime: AscendRuntime) -> None:
    async with serving(runtime) as server:
        answer = await info(server)
        assert (answer.backend, answer.device) == ("ascend", "Ascend910B3")
        assert answer.limits.chunk_bytes == 2 * 2**20
        (opened,) = server.events("device_opened")
        assert opened["op_library"] == str(runtime.op_library)
        assert opened["kernel_hash"] == answer.kernel_hash


async def test_metrics_have_times_of_blocks_reused_plans_and_memory(runtime: AscendRuntime) -> None:
    async with serving(runtime, device_timing_every=1) as server:
        stream = await server.stream()
        copies, hits, plans = (
            server.metric("mse_grad_phase_seconds_count", phase="copy_in"),
            server.metric("mse_grad_device_plan_hits_total"),
            server.metric("mse_grad_device_plans_total"),
        )
        for id in (1, 2, 3):
            await compute(stream, id)
        await server.until(lambda: server.metric("mse_grad_in_flight_requests") == 0)
        for phase in ("copy_in", "kernel", "copy_out"):
            assert server.metric("mse_grad_phase_seconds_count", phase=phase) == copies + 3
        assert server.metric("mse_grad_device_plans_total") == plans + 1
        assert server.metric("mse_grad_device_plan_hits_total") == hits + 2
        pinned_bytes = 4 * server.settings.device_slots * server.settings.device_block_bytes
        assert server.metric("mse_grad_device_pinned_bytes") == pinned_bytes
        assert server.metric("mse_grad_device_memory_bytes") >= pinned_bytes
        for step in ("libraries", "device", "self_check", "backend", "verify"):
            assert server.metric("mse_grad_start_seconds", step=step) > 0
        assert 'soc="Ascend910B3"' in server.metrics_text()


async def test_a_fault_is_repaired_and_counted_and_the_request_answered(runtime: AscendRuntime) -> None:
    async with serving(runtime) as server:
        stream = await server.stream()
        with runtime.faults("aclnnMseLossGradPart code=507015"):
            assert not await compute(stream, 1)
        assert server.metric("mse_grad_device_faults_total", fault="execution") == 1
        assert server.metric("mse_grad_device_rungs_total", rung="rebuild") == 1
        assert server.metric("mse_grad_device_repair_seconds_count", rung="rebuild") == 1
        (line,) = server.events("device_fault")
        assert "aclnnMseLossGradPart returned 507015" in line["message"]
        await server.until(lambda: server.metric("mse_grad_ready") == 1)


async def test_an_open_circuit_refuses_with_a_time_and_turns_health_until_it_closes(runtime: AscendRuntime) -> None:
    async with serving(runtime) as server:
        stream = await server.stream()
        for id in (1, 2):
            with runtime.faults("aclnnMseLossGradPart code=507015"):
                await compute(stream, id)
        # After the pause the device is checked again, and the first call of that check returns when the `with` ends.
        with runtime.faults(f"aclnnMseLossGradPart code=507015; aclrtMemset mode=hang after={len(DTYPES_ON_DEVICE)}"):
            assert await refused(stream, 3) == 1.0
            assert server.metric("mse_grad_device_circuit_open") == 1
            await server.until(lambda: server.metric("mse_grad_ready") == 0)
            assert (await info(server)).endpoints[0].state == pb.WORKER_STATE_RECOVERING
            assert await health(server) == health_pb2.HealthCheckResponse.NOT_SERVING
            assert await refused(stream, 4) == 1.0
        await server.until(lambda: server.metric("mse_grad_ready") == 1)
        assert not await compute(stream, 5)
        assert server.metric("mse_grad_device_circuit_open") == 0
        assert (await info(server)).endpoints[0].state == pb.WORKER_STATE_READY
        assert await health(server) == health_pb2.HealthCheckResponse.SERVING


async def test_a_lost_device_fails_its_requests_and_asks_for_the_end(runtime: AscendRuntime) -> None:
    async with serving(runtime) as server:
        stream = await server.stream()
        with runtime.faults("aclnnMseLossGradPart code=507899 mode=dead"):
            assert await refused(stream, 1) > 0
        error = await asyncio.wait_for(server.server.lost, 20)
        assert error.exit_code is ExitCode.DEVICE_LOST
        assert server.events("device_lost")[0]["exit_code"] == 15


async def test_the_process_ends_with_the_code_of_a_lost_device(runtime: AscendRuntime) -> None:
    log = io.StringIO()
    running = asyncio.ensure_future(lifecycle.run(settings_of(runtime), open_log("info", "json", stream=log)))
    await until(lambda: '"ready"' in log.getvalue())
    listen = log.getvalue().split('"listen": "')[1].split('"')[0]
    with runtime.faults("aclnnMseLossGradPart code=507899 mode=dead"):
        async with grpc.aio.insecure_channel(listen) as channel:
            stream = RawStream(channel)
            await stream.opened()
            assert await refused(stream, 1) > 0
            assert await asyncio.wait_for(running, 20) is ExitCode.DEVICE_LOST


async def test_the_fallback_computes_while_the_device_cannot_and_answers_and_a_metric_say_so(
    runtime: AscendRuntime,
) -> None:
    async with serving(runtime, fallback="cpu") as server:
        stream = await server.stream()
        assert not await compute(stream, 1)
        with runtime.faults("aclnnMseLossGradPart code=507899 mode=dead"):
            assert await compute(stream, 2)
            await server.until(lambda: bool(server.events("device_lost")))
            assert await compute(stream, 3)
        assert server.metric("mse_grad_fallback_elements_total") == 2 * 999
        assert server.metric("mse_grad_ready") == 1
        assert not server.server.lost.done()
        answer = await server.call("ComputeGradient", unary_request(np.zeros(1, np.float32), FLOAT32))
        assert pb.ComputeGradientResponse.FromString(answer).fallback


async def test_the_fallback_serves_from_the_start_if_there_is_no_device(runtime: AscendRuntime) -> None:
    async with serving(runtime, fallback="cpu", device=7) as server:
        (line,) = server.events("fallback")
        assert "there is no device 7" in line["message"]
        assert await compute(await server.stream(), 1)


async def test_a_signal_closes_the_device(runtime: AscendRuntime) -> None:
    log = io.StringIO()
    running = asyncio.ensure_future(lifecycle.run(settings_of(runtime), open_log("info", "json", stream=log)))
    await until(lambda: '"ready"' in log.getvalue())
    os.kill(os.getpid(), signal.SIGTERM)
    assert await asyncio.wait_for(running, 20) is ExitCode.OK


@pytest.mark.parametrize(
    ("overflow", "mode", "holds"),
    [("inf_nan", pb.OVERFLOW_MODE_INF_NAN, True), ("saturation", pb.OVERFLOW_MODE_SATURATION, False)],
)
async def test_the_server_reports_the_edges_of_its_device(
    runtime: AscendRuntime, overflow: str, mode: pb.OverflowMode, holds: bool
) -> None:
    with runtime.options(overflow=overflow):
        async with serving(runtime) as server:
            numerics = (await info(server)).numerics
            assert numerics.verified
            assert numerics.overflow_mode == mode
            assert (numerics.infinities, numerics.nans, numerics.overflow) == (holds, holds, holds)
            assert numerics.subnormals
            (told,) = server.events("edges")
            assert told["level"] == ("info" if holds else "warning")


@pytest.mark.parametrize(
    ("chip", "mode"),
    [("Ascend910B3", pb.OVERFLOW_MODE_UNSPECIFIED), ("Ascend310B1", pb.OVERFLOW_MODE_SATURATION)],
)
async def test_a_runtime_that_does_not_report_its_overflow_mode_has_that_of_its_chip(
    runtime: AscendRuntime, chip: str, mode: pb.OverflowMode
) -> None:
    with runtime.options(chip=chip), runtime.faults("aclrtGetDeviceSatMode code=107002 times=0"):
        async with serving(runtime) as server:
            assert (await info(server)).numerics.overflow_mode == mode
            assert server.events("device_fault") == []
