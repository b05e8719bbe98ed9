"""Every method that is registered on the server, and every path beside it, with each kind of credential."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import grpc
import pytest

from support.server.raw_http2 import Http2, framed
from support.server.server_in_loop import Serving, serving
from support.waiting import PATIENCE_S

VALID, WRONG, REMOVED = "a-token-that-is-long-enough", "a-token-that-nobody-knows", "a-token-that-is-removed"
OPEN = frozenset(f"/grpc.health.v1.Health/{name}" for name in ("Check", "Watch"))
SERVICES = {
    "grpc.channelz.v1.Channelz",
    "grpc.health.v1.Health",
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
    "inference.GRPCInferenceService",
    "mse_grad.v1.MseGradService",
}
GRADIENTS = {
    "/inference.GRPCInferenceService/ModelInfer",
    "/inference.GRPCInferenceService/ModelStreamInfer",
    "/mse_grad.v1.MseGradService/ComputeGradient",
    "/mse_grad.v1.MseGradService/StreamGradients",
}
ADMINISTRATION = {"LogSettings", "RepositoryModelLoad", "RepositoryModelUnload", "TraceSetting"}
Metadata = Sequence[tuple[str, str]]


class Registered:
    """The methods of all services of a server, as its gRPC server finds them.

    Attributes:
        methods: Their full names.
        reached: Paths for which gRPC was asked for the handler, and had one: nothing has refused the caller.
    """

    def __init__(self) -> None:
        self.methods: set[str] = set()
        self.reached: list[str] = []

    def watch(self, server: Any) -> Any:
        """Returns a new gRPC server, whose handlers are listed from now on."""
        add = server.add_generic_rpc_handlers

        def add_watched(handlers: Any) -> None:
            for handler in handlers:
                self.methods.update(handler._method_handlers)
            add([_Watched(handler, self.reached) for handler in handlers])

        server.add_generic_rpc_handlers = add_watched
        server.add_registered_method_handlers = lambda service, handlers: None  # the same ones again
        return server


class _Watched(grpc.GenericRpcHandler):
    def __init__(self, handler: Any, reached: list[str]) -> None:
        self._handler = handler
        self._reached = reached

    def service(self, handler_call_details: Any) -> Any:
        found = self._handler.service(handler_call_details)
        if found is not None:
            self._reached.append(handler_call_details.method)
        return found


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> Registered:
    registered, make = Registered(), grpc.aio.server
    monkeypatch.setattr(grpc.aio, "server", lambda **arguments: registered.watch(make(**arguments)))
    return registered


def bearer(token: str) -> Metadata:
    return (("authorization", f"Bearer {token}"),)


async def code_of(server: Serving, method: str, metadata: Metadata) -> grpc.StatusCode:
    """Returns the code of an RPC with one empty message."""
    # The kind of call does not show on the wire. This one sends everything at once, so that nothing is still to be sent
    # when the server refuses it.
    call = server.channel.unary_stream(method)(b"", metadata=metadata, timeout=PATIENCE_S)
    try:
        while await call.read() is not grpc.aio.EOF:
            if method.endswith("/Watch"):  # it would never end
                call.cancel()
                return grpc.StatusCode.OK
    except grpc.aio.AioRpcError:
        pass
    code: grpc.StatusCode = await call.code()
    return code


async def test_each_method_is_listed(registered: Registered) -> None:
    async with serving():
        assert {method.split("/")[1] for method in registered.methods} == SERVICES
        assert len(registered.methods) > 30


async def test_no_method_but_health_is_open_to_a_caller_without_a_valid_token(
    registered: Registered, tmp_path: Path
) -> None:
    file = tmp_path / "tokens"
    file.write_text(f"{VALID}\n{REMOVED}\n")
    async with serving(token_file=str(file)) as server:
        file.write_text(f"{VALID}\n")
        await server.server._credentials.refresh(server.server._credentials_changed)
        closed = sorted(registered.methods - OPEN)
        for metadata in ((), bearer(WRONG), bearer(REMOVED), (("authorization", VALID),), (("token", VALID),)):
            for method in closed:
                assert await code_of(server, method, metadata) is grpc.StatusCode.UNAUTHENTICATED, method
        assert registered.reached == []
        for method in sorted(OPEN):
            assert await code_of(server, method, ()) is grpc.StatusCode.OK
        for method in closed:
            refused = (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED)
            assert await code_of(server, method, bearer(VALID)) not in refused, method
        assert set(registered.reached) == registered.methods


@pytest.mark.parametrize("scope", ["info", "compute", "admin"])
async def test_a_scoped_token_opens_the_methods_of_its_scope_alone(
    registered: Registered, tmp_path: Path, scope: str
) -> None:
    file = tmp_path / "tokens"
    file.write_text(f"{VALID} name=trainer scope={scope}\n")
    async with serving(token_file=str(file)) as server:
        for_admins = {method for method in registered.methods if "channelz" in method}
        for_admins |= {method for method in registered.methods if method.split("/")[2] in ADMINISTRATION}
        refused = {"info": GRADIENTS | for_admins, "compute": for_admins, "admin": set()}[scope]
        for method in sorted(registered.methods - OPEN):
            code = await code_of(server, method, bearer(VALID))
            assert (code is grpc.StatusCode.PERMISSION_DENIED) is (method in refused), method
            assert code is not grpc.StatusCode.UNAUTHENTICATED
        assert refused.isdisjoint(registered.reached)
        assert server.metric("mse_grad_unauthenticated_total", reason="SCOPE_MISSING") == len(refused)
        lines = [line for event in ("call_failed", "request_failed") for line in server.events(event)]
        callers = [line["caller"] for line in lines if line["reason"] == "SCOPE_MISSING"]
        assert callers == ["trainer"] * len(refused)


def beside(method: str) -> Iterator[str]:
    """Yields paths that a careless comparison or a normalisation could take for `method`."""
    _, service, name = method.split("/")
    yield method[1:]
    yield f"/{method}"
    yield f"/{service}//{name}"
    yield f"{method}/"
    yield f"{method}."
    yield f"/{service}./{name}"
    yield method.upper()
    yield method.lower()
    yield f"/{service}/{name.lower()}"
    yield f"/./{service}/{name}"
    yield f"/x/../{service}/{name}"
    yield f"/{service}%2F{name}"
    yield f"/{service}/%{ord(name[0]):02X}{name[1:]}"
    yield f"/%{ord(service[0]):02x}{service[1:]}/{name}"
    yield f"{method}?"
    yield f"{method}#"
    yield f"{method};v=1"
    yield f"{method}%00"
    yield f"{method} "
    yield f"/grpc.health.v1.Health/..{method}"
    yield f"/grpc.health.v1.Health/Check/..{method}"
    yield f"/grpc.health.v1.Health/%2e%2e{method}"
    yield f"http://test{method}"


async def ended(server: Serving, paths: Sequence[str], metadata: Metadata) -> None:
    """Makes an RPC to each path over raw HTTP/2, and waits until the server has ended it."""

    def call_all() -> None:
        with Http2(str(server.server.address)) as http2:
            for path in paths:
                http2.ended(http2.open(path, framed(b""), ends=True, metadata=metadata))

    await asyncio.to_thread(call_all)


async def test_no_path_beside_a_method_leads_to_a_handler(registered: Registered, tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_text(VALID)
    async with serving(token_file=str(file), log_level="info") as server:
        paths = sorted({path for method in registered.methods for path in beside(method)} - registered.methods)
        assert len(paths) > 20 * len(registered.methods)
        for metadata in ((), bearer(VALID)):
            await ended(server, paths, metadata)
            assert registered.reached == []
        # gRPC itself passes each of them on.
        assert server.metric("mse_grad_unauthenticated_total", reason="TOKEN_MISSING") == len(paths)
        methods = sorted(registered.methods - {"/grpc.health.v1.Health/Watch"})
        await ended(server, methods, bearer(VALID))
        assert set(registered.reached) == set(methods)


async def test_a_caller_with_two_tokens_is_judged_by_one(registered: Registered, tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_text(VALID)
    method = "/mse_grad.v1.MseGradService/GetServerInfo"
    async with serving(token_file=str(file)) as server:
        assert await code_of(server, method, (*bearer(WRONG), *bearer(VALID))) is grpc.StatusCode.UNAUTHENTICATED
        assert await code_of(server, method, bearer(f"{WRONG}, Bearer {VALID}")) is grpc.StatusCode.UNAUTHENTICATED
        assert registered.reached == []
