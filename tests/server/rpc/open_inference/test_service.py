from __future__ import annotations

from typing import Any

import grpc
import pytest

from mse_grad.open_inference import inference_pb2 as oip
from mse_grad.open_inference.inference_pb2_grpc import GRPCInferenceServiceStub
from mse_grad.reasons import Reason
from mse_grad.version import VERSION
from support.server.open_inference import infer_request
from support.server.raw_stream import told
from support.server.server_in_loop import Serving, serving
from support.waiting import PATIENCE_S

SERVICE = "/inference.GRPCInferenceService"


async def ask(server: Serving, method: str, **fields: Any) -> Any:
    stub = GRPCInferenceServiceStub(server.channel)
    request = getattr(oip, f"{method}Request")(**fields)
    return await getattr(stub, method)(request, timeout=PATIENCE_S)


async def test_the_server_and_its_model_are_live_and_ready() -> None:
    async with serving() as server:
        assert (await ask(server, "ServerLive")).live
        assert (await ask(server, "ServerReady")).ready
        assert (await ask(server, "ModelReady", name="mse_grad")).ready
        assert (await ask(server, "ModelReady", name="mse_grad", version="1")).ready
        assert not (await ask(server, "ModelReady", name="resnet")).ready


async def test_a_drained_server_is_live_and_not_ready() -> None:
    async with serving() as server:
        await server.server.drain()
        assert (await ask(server, "ServerLive")).live
        assert not (await ask(server, "ServerReady")).ready
        assert not (await ask(server, "ModelReady", name="mse_grad")).ready
        (model,) = (await ask(server, "RepositoryIndex")).models
        assert (model.state, model.reason) == ("UNAVAILABLE", "the server is draining")
        assert not (await ask(server, "RepositoryIndex", ready=True)).models


async def test_the_descriptions_name_the_model_with_its_inputs_and_output() -> None:
    async with serving() as server:
        metadata = await ask(server, "ServerMetadata")
        assert (metadata.name, metadata.version) == ("mse-grad", VERSION)
        model = await ask(server, "ModelMetadata", name="mse_grad")
        assert (model.name, list(model.versions)) == ("mse_grad", ["1"])
        config = (await ask(server, "ModelConfig", name="mse_grad")).config
        assert (config.name, config.max_batch_size, config.model_transaction_policy.decoupled) == ("mse_grad", 0, False)
        for described in (model.inputs, config.input):
            assert [one.name for one in described] == ["predict", "label", "dout"]
        for described in (model.outputs, config.output):
            assert [one.name for one in described] == ["y"]
        (index,) = (await ask(server, "RepositoryIndex")).models
        assert (index.name, index.version, index.state) == ("mse_grad", "1", "READY")


async def test_statistics_count_the_requests_of_every_protocol() -> None:
    async with serving() as server:
        stub = GRPCInferenceServiceStub(server.channel)
        await stub.ModelInfer(infer_request(), timeout=PATIENCE_S)
        with pytest.raises(grpc.aio.AioRpcError):
            await server.call("ComputeGradient", b"")
        for fields in ({}, {"name": "mse_grad"}, {"name": "mse_grad", "version": "1"}):
            (model,) = (await ask(server, "ModelStatistics", **fields)).model_stats
            stats = model.inference_stats
            assert (model.name, model.inference_count, model.execution_count) == ("mse_grad", 1, 1)
            assert (stats.success.count, stats.fail.count, stats.compute_infer.count) == (1, 1, 1)


@pytest.mark.parametrize("method", ["ModelMetadata", "ModelConfig", "ModelStatistics"])
async def test_another_model_is_not_found(method: str) -> None:
    async with serving() as server:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await ask(server, method, name="resnet")
        assert told(caught.value)[:2] == (grpc.StatusCode.NOT_FOUND, Reason.MODEL_UNKNOWN)


@pytest.mark.parametrize(
    "method",
    [
        "RepositoryModelLoad",
        "RepositoryModelUnload",
        "SystemSharedMemoryStatus",
        "SystemSharedMemoryRegister",
        "CudaSharedMemoryUnregister",
        "TraceSetting",
        "LogSettings",
    ],
)
async def test_what_is_not_offered_is_unimplemented_in_words(method: str) -> None:
    async with serving() as server:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await server.channel.unary_unary(f"{SERVICE}/{method}")(b"", timeout=PATIENCE_S)
        code, reason, text = told(caught.value)
        assert (code, reason) == (grpc.StatusCode.UNIMPLEMENTED, Reason.NOT_OFFERED)
        assert len(text.split()) > 5


async def test_every_method_of_the_contract_is_answered() -> None:
    async with serving() as server:
        for method in oip.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods:
            call = server.channel.stream_unary(f"{SERVICE}/{method.name}")()
            await call.done_writing()
            assert await call.code() in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.OK, grpc.StatusCode.INTERNAL)


@pytest.mark.parametrize("method", ["ServerLive", "ModelMetadata", "ModelStatistics", "LogSettings"])
async def test_small_methods_take_small_messages_only(method: str) -> None:
    async with serving() as server:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await server.channel.unary_unary(f"{SERVICE}/{method}")(bytes(5000), timeout=PATIENCE_S)
        assert told(caught.value)[:2] == (grpc.StatusCode.RESOURCE_EXHAUSTED, Reason.MESSAGE_TOO_LARGE)
