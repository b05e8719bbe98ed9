"""Authentication by tokens, in the event loop of the test; the token file changes while the server runs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from mse_grad.reasons import Reason
from mse_grad_server.process.exits import CredentialsError
from support.server.raw_stream import chunk, header, reason_of, told
from support.server.server_in_loop import Serving, serving

TOKEN = "a-token-that-is-long-enough"
OTHER = "another-token-of-somebody-else"


def bearer(token: str) -> dict[str, Any]:
    """Returns the metadata of a call with the token."""
    return {"metadata": (("authorization", f"Bearer {token}"),)}


@asynccontextmanager
async def guarded(folder: Path) -> AsyncIterator[tuple[Serving, Path]]:
    """Runs a server that reads its file of tokens."""
    file = folder / "tokens"
    file.write_text(f"{TOKEN}\n{OTHER}\n")
    async with serving(token_file=str(file)) as server:
        looking = asyncio.ensure_future(server.server.watch_credentials())
        try:
            yield server, file
        finally:
            looking.cancel()
            await asyncio.wait([looking])


async def refusal(calling: Any) -> tuple[grpc.StatusCode, Reason, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await calling
    return told(caught.value)


async def test_a_caller_with_a_token_is_served(tmp_path: Path) -> None:
    async with guarded(tmp_path) as (server, _):
        assert await server.call("GetServerInfo", b"", **bearer(TOKEN))
        assert await server.call("GetServerInfo", b"", metadata=(("authorization", f"bearer  {OTHER}"),))
        stream = await server.stream(**bearer(TOKEN))
        await stream.assert_works(1)


@pytest.mark.parametrize(
    ("metadata", "reason"),
    [
        ((), Reason.TOKEN_MISSING),
        ((("authorization", f"Basic {TOKEN}"),), Reason.TOKEN_MISSING),
        ((("authorization", "Bearer "),), Reason.TOKEN_UNKNOWN),
        ((("authorization", f"Bearer {TOKEN}x"),), Reason.TOKEN_UNKNOWN),
    ],
)
async def test_a_caller_without_a_valid_token_is_refused(tmp_path: Path, metadata: Any, reason: Reason) -> None:
    async with guarded(tmp_path) as (server, _):
        expected = (grpc.StatusCode.UNAUTHENTICATED, reason)
        for method in ("GetServerInfo", "ComputeGradient", "NoMethod"):
            code, told_reason, text = await refusal(server.call(method, b"", metadata=metadata))
            assert (code, told_reason) == expected
            assert TOKEN not in text
        assert (await server.raw_stream(metadata=metadata).receive_failure())[:2] == expected
        assert server.metric("mse_grad_unauthenticated_total", reason=reason.value) == 4
        lines = [*server.events("call_failed"), *server.events("request_failed")]
        assert len(lines) == 4
        assert {line["reason"] for line in lines} == {reason.value}
        assert all(line["peer"].startswith(("ipv4:127.0.0.1:", "ipv6:%5B::1%5D:", "unix:")) for line in lines)


async def test_reflection_needs_a_token(tmp_path: Path) -> None:
    async with guarded(tmp_path) as (server, _):
        stub = reflection_pb2_grpc.ServerReflectionStub(server.channel)
        asked = reflection_pb2.ServerReflectionRequest(list_services="")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            _ = [answer async for answer in stub.ServerReflectionInfo(iter([asked]))]
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
        assert [answer async for answer in stub.ServerReflectionInfo(iter([asked]), **bearer(TOKEN))]


async def test_health_checks_need_no_token(tmp_path: Path) -> None:
    async with guarded(tmp_path) as (server, _):
        stub = health_pb2_grpc.HealthStub(server.channel)
        answer = await stub.Check(health_pb2.HealthCheckRequest())
        assert answer.status == health_pb2.HealthCheckResponse.SERVING


async def test_a_message_of_a_refused_caller_is_not_read(tmp_path: Path) -> None:
    async with guarded(tmp_path) as (server, _):
        # gRPC's own check would refuse the message only after reading it
        message = bytes(server.settings.receive_limit_bytes + 1)
        _, reason, _ = await refusal(server.call("GetServerInfo", message))
        assert reason is Reason.TOKEN_MISSING


async def test_a_stream_whose_token_is_removed_finishes_and_ends(tmp_path: Path) -> None:
    async with guarded(tmp_path) as (server, file):
        stream = await server.stream(**bearer(TOKEN))
        other = await server.stream(**bearer(OTHER))
        await stream.send([header(1, (2,))], [chunk(1, 0, [1.0])])
        await stream.receive_gradient(1, 1)
        file.write_text(f"{OTHER}\n")
        response = await stream.receive()
        assert response.go_away is not None
        assert (response.go_away.last_id, reason_of(response.go_away.status)) == (1, Reason.TOKEN_REMOVED)
        await stream.send((), [chunk(1, 1, [1.0])])
        assert (await stream.receive()).results[0].offset == 1
        await stream.close()
        await other.assert_works(1)
        assert len(server.events("token_removed")) == 1
        assert (await refusal(server.call("GetServerInfo", b"", **bearer(TOKEN))))[1] is Reason.TOKEN_UNKNOWN


async def test_reflection_ends_once_its_token_is_removed(tmp_path: Path) -> None:
    async with guarded(tmp_path) as (server, file):
        stub = reflection_pb2_grpc.ServerReflectionStub(server.channel)
        call: Any = stub.ServerReflectionInfo(**bearer(TOKEN))
        other: Any = stub.ServerReflectionInfo(**bearer(OTHER))
        asked = reflection_pb2.ServerReflectionRequest(list_services="")
        await call.write(asked)
        assert (await call.read()).list_services_response.service
        file.write_text(f"{OTHER}\n")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call.read()
        assert told(caught.value)[1] is Reason.TOKEN_REMOVED
        await other.write(asked)
        assert (await other.read()).list_services_response.service
        await other.done_writing()


async def test_a_watch_of_health_needs_no_token_and_loses_none(tmp_path: Path) -> None:
    async with guarded(tmp_path) as (server, file):
        watch: Any = health_pb2_grpc.HealthStub(server.channel).Watch(health_pb2.HealthCheckRequest(), **bearer(TOKEN))
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        file.write_text(f"{OTHER}\n")
        await server.until(lambda: bool(server.events("credentials_read")))
        assert not watch.done()
        assert not server.events("token_removed")
        watch.cancel()


async def test_a_stream_that_does_not_end_then_is_cut_off(tmp_path: Path) -> None:
    async with guarded(tmp_path) as (server, file):
        stream = await server.stream(**bearer(TOKEN))
        await stream.send([header(1, (2,))], [chunk(1, 0, [1.0])])
        await stream.receive_gradient(1, 1)
        file.write_text(f"{OTHER}\n")
        assert (await stream.receive()).go_away is not None
        server.clock.advance(server.settings.drain_timeout_s)
        code, _, _ = await stream.receive_failure()
        assert code is grpc.StatusCode.UNAVAILABLE


async def test_a_stream_whose_token_has_other_rights_ends_like_one_whose_token_is_removed(tmp_path: Path) -> None:
    async with guarded(tmp_path) as (server, file):
        stream = await server.stream(**bearer(TOKEN))
        other = await server.stream(**bearer(OTHER))
        file.write_text(f"{TOKEN} name=trainer scope=info\n{OTHER}\n")
        go_away = (await stream.receive()).go_away
        assert go_away is not None
        assert reason_of(go_away.status) is Reason.TOKEN_REMOVED
        assert "rights of this stream's token have changed" in go_away.status.message
        await stream.close()
        await other.assert_works(1)
        failure = await server.raw_stream(**bearer(TOKEN)).receive_failure()
        assert failure[:2] == (grpc.StatusCode.PERMISSION_DENIED, Reason.SCOPE_MISSING)


async def test_the_name_of_a_token_is_in_log_and_metrics_on_each_path(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_text(f"{TOKEN} name=trainer-a\n{OTHER}\n")
    async with serving(token_file=str(file)) as server:
        for token in (TOKEN, OTHER):
            stream = await server.stream(**bearer(token))
            await stream.assert_works(1)
            await stream.send([header(2, (-1,))])
            await stream.receive_error()
            for method in ("ComputeGradient", "NoMethod"):
                with pytest.raises(grpc.aio.AioRpcError):
                    await server.call(method, b"\xff", **bearer(token))
        failed = [*server.events("request_failed"), *server.events("call_failed")]
        assert [line.get("caller") for line in server.events("request_answered")] == ["trainer-a", None]
        assert [line.get("caller") for line in failed if "caller" in line] == ["trainer-a"] * 2
        assert server.metric("mse_grad_caller_requests_total", caller="trainer-a", outcome="answered") == 1
        assert server.metric("mse_grad_caller_requests_total", caller="trainer-a", outcome="failed") == 2
        assert server.metrics_text().count("mse_grad_caller_requests_total{") == 2


async def test_a_token_that_is_added_is_valid_at_once(tmp_path: Path) -> None:
    async with guarded(tmp_path) as (server, file):
        added = "a-token-that-came-later"
        assert (await refusal(server.call("GetServerInfo", b"", **bearer(added))))[1] is Reason.TOKEN_UNKNOWN
        file.write_text(f"{TOKEN}\n{added}\n")
        await server.until(lambda: bool(server.events("credentials_read")))
        assert await server.call("GetServerInfo", b"", **bearer(added))


async def test_a_token_file_that_is_gone_accepts_no_new_token(tmp_path: Path) -> None:
    async with guarded(tmp_path) as (server, file):
        file.unlink()
        await server.until(lambda: bool(server.events("credentials_kept")))
        assert await server.call("GetServerInfo", b"", **bearer(TOKEN))
        assert (await refusal(server.call("GetServerInfo", b"")))[1] is Reason.TOKEN_MISSING


async def test_without_tokens_from_the_start_there_is_no_server(tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text("# soon\n")
    with pytest.raises(CredentialsError, match="has no token, so nobody could call"):
        async with serving(token_file=str(tmp_path / "tokens")):
            raise AssertionError


async def test_the_log_never_contains_a_token(tmp_path: Path) -> None:
    async with guarded(tmp_path) as (server, file):
        wrong = "a-token-that-nobody-knows"
        await server.call("GetServerInfo", b"", **bearer(TOKEN))
        await refusal(server.call("GetServerInfo", b"", **bearer(wrong)))
        file.write_text(f"{OTHER}\n{TOKEN} and more\n")
        await server.until(lambda: bool(server.events("credentials_kept")))
        log = server._log.getvalue()
        assert [token for token in (TOKEN, OTHER, wrong) if token in log] == []
