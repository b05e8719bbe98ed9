from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from grpc_channelz.v1 import channelz_pb2, channelz_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from mse_grad.reasons import Reason
from support.server.raw_stream import pairs, told, trailing
from support.server.server_in_loop import serving


async def test_reflection_lists_and_describes_our_service() -> None:
    async with serving() as server:
        call = reflection_pb2_grpc.ServerReflectionStub(server.channel).ServerReflectionInfo()
        await call.write(reflection_pb2.ServerReflectionRequest(list_services=""))
        listed = {service.name for service in (await call.read()).list_services_response.service}
        assert {"mse_grad.v1.MseGradService", "grpc.health.v1.Health"} <= listed
        await call.write(reflection_pb2.ServerReflectionRequest(file_containing_symbol="mse_grad.v1.MseGradService"))
        assert (await call.read()).file_descriptor_response.file_descriptor_proto
        await call.done_writing()
        assert pairs(await call.trailing_metadata())["x-request-id"]


async def test_channelz_counts_our_calls() -> None:
    async with serving() as server:
        await server.call("GetServerInfo", b"")
        answer = await channelz_pb2_grpc.ChannelzStub(server.channel).GetServers(channelz_pb2.GetServersRequest())
        assert max(entry.data.calls_started for entry in answer.server) >= 1


async def test_a_status_that_another_service_set_itself_is_kept() -> None:
    async with serving() as server:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await server.channel.unary_unary("/grpc.health.v1.Health/Check")(b"\x0a\x02no")
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
        assert "grpc-status-details-bin" not in trailing(caught.value)
        assert not server.events("call_failed")


@pytest.mark.parametrize(
    "method",
    [
        "grpc.health.v1.Health/Check",
        "grpc.health.v1.Health/Watch",
        "grpc.channelz.v1.Channelz/GetServer",
        "grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        "grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
    ],
)
async def test_a_malformed_message_to_another_service_is_the_callers_error(method: str) -> None:
    async with serving() as server:
        call = server.channel.stream_stream(f"/{method}")(iter([b"\x0a\xff"]))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call.read()
        code, reason, message = told(caught.value)
        assert (code, reason) == (grpc.StatusCode.INVALID_ARGUMENT, Reason.MESSAGE_MALFORMED)
        assert method.rpartition("/")[2] in message
        assert [line["level"] for line in server.events("call_failed")] != ["error"]


async def test_a_failed_stream_returns_the_request_id_of_its_log_line() -> None:
    async with serving() as server:
        stream = await server.stream(metadata=(("x-request-id", "mine"),))
        await stream.send_bytes(b"\xff")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stream.receive_end()
        assert trailing(caught.value)["x-request-id"] == "mine"
        assert [line["request_id"] for line in server.events("call_failed")] == ["mine"]


async def test_an_answered_stream_returns_its_request_id() -> None:
    async with serving() as server:
        stream = await server.stream(metadata=(("x-request-id", "mine"),))
        await stream.close()
        assert pairs(await stream.call.trailing_metadata())["x-request-id"] == "mine"


class _Iterating(grpc.aio.ServerInterceptor):
    """Interceptor that iterates over streams, as OpenTelemetry does, which expects handlers to be generators."""

    async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        handler = await continuation(handler_call_details)
        if not handler.response_streaming:
            return handler

        async def iterate(request: Any, context: Any) -> AsyncIterator[Any]:
            async for response in handler.stream_stream(request, context):
                yield response

        return grpc.stream_stream_rpc_method_handler(
            iterate, request_deserializer=handler.request_deserializer, response_serializer=handler.response_serializer
        )


async def test_a_third_party_interceptor_may_iterate_over_our_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    make = grpc.aio.server

    def instrumented(*, interceptors: list[Any], **arguments: Any) -> Any:
        return make(interceptors=[_Iterating(), *interceptors], **arguments)

    monkeypatch.setattr(grpc.aio, "server", instrumented)
    async with serving() as server:
        stream = await server.stream()
        await stream.assert_works(1)
        await stream.close()
