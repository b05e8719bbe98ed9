from __future__ import annotations

import grpc
import pytest
from grpc_channelz.v1 import channelz_pb2, channelz_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from support.in_process import pairs, serving, trailing


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


async def test_words_that_another_service_chose_itself_are_kept() -> None:
    async with serving() as server:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await server.channel.unary_unary("/grpc.health.v1.Health/Check")(b"\x0a\x02no")
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
        assert "grpc-status-details-bin" not in trailing(caught.value)
        assert not server.events("call_failed")


async def test_a_failed_stream_says_under_which_id_it_is_logged() -> None:
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
