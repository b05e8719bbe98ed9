"""What the doctor says of a server, from its name to a gradient."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest

from mse_grad.codec import StreamRequest
from mse_grad.reasons import Reason
from mse_grad.v1 import mse_grad_pb2 as pb
from mse_grad_cli.doctor import Finding, Level, examine_server
from mse_grad_client import ClientOptions
from support.client.proxy import TunnelProxy
from support.client.scripted_server import Script, ScriptedServer, refused
from support.ports import held_port

TIMEOUT_S = 20.0


def info(*states: pb.WorkerState, version: str = "", addresses: tuple[str, ...] = ()) -> pb.GetServerInfoResponse:
    endpoints = [
        pb.Endpoint(address=addresses[number] if addresses else "127.0.0.1:1", device=f"npu:{number}", state=state)
        for number, state in enumerate(states)
    ]
    return pb.GetServerInfoResponse(
        version=version or metadata.version("mse-grad"),
        backend="ascend",
        device="Ascend910B1",
        kernel_hash="0123456789abcdef",
        endpoints=endpoints,
        numerics=pb.Numerics(verified=True),
    )


def examine(address: str) -> dict[str, Finding]:
    return {finding.subject: finding for finding in examine_server(address, ClientOptions(timeout_s=TIMEOUT_S))}


def examine_scripted(told: pb.GetServerInfoResponse, *scripts: Script) -> dict[str, Finding]:
    with ScriptedServer(*scripts) as server:
        server.info = lambda: told
        return examine(server.address)


def test_a_server_that_computes_is_well_but_for_its_health_that_is_not_told() -> None:
    findings = examine_scripted(info(pb.WORKER_STATE_READY))
    assert list(findings) == ["address", "health", "server", "transport", "workers", "gradient"]
    assert findings["health"].level is Level.WARNING
    assert {finding.level for name, finding in findings.items() if name != "health"} == {Level.OK}
    assert findings["server"].text.endswith("ascend (Ascend910B1), kernel 0123456789ab")
    assert findings["gradient"].text.startswith("correct; 1024 elements take ")
    assert findings["transport"].text == "stream; the server offers no direct connection"


def test_an_unreachable_server_is_one_error_with_advice() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        findings = examine(f"127.0.0.1:{taken.getsockname()[1]}")
    assert list(findings) == ["address"]
    assert findings["address"].level is Level.ERROR
    assert "is mse-grad-server running there" in findings["address"].advice


def test_a_name_that_is_not_resolved_is_an_error() -> None:
    finding = examine("no-such-host.invalid:50051")["address"]
    assert finding.level is Level.ERROR
    assert "cannot resolve no-such-host.invalid" in finding.text


@pytest.mark.parametrize("make", [lambda path: None, lambda path: path.write_text("")])
def test_a_path_without_a_socket_is_an_error(tmp_path: Path, make: object) -> None:
    path = tmp_path / "server.sock"
    assert callable(make)
    make(path)
    finding = examine(f"unix:{path}")["address"]
    assert finding.level is Level.ERROR
    assert str(path) in finding.text


def test_another_kind_of_server_is_an_error() -> None:
    with ScriptedServer() as server:
        findings = examine(server.address)
    assert findings["server"].level is Level.ERROR
    assert "does not answer as an mse-grad server" in findings["server"].text


def test_another_version_is_a_warning_that_names_both() -> None:
    finding = examine_scripted(info(pb.WORKER_STATE_READY, version="99.1"))["server"]
    assert finding.level is Level.WARNING
    assert finding.text.startswith("99.1, ascend")
    assert finding.text.endswith(f"this client is {metadata.version('mse-grad')}")


def test_no_worker_ready_is_an_error_and_no_gradient_is_tried() -> None:
    findings = examine_scripted(info(pb.WORKER_STATE_STARTING))
    assert findings["workers"].level is Level.ERROR
    assert findings["workers"].text == "0 of 1 ready; npu:0 is starting"
    assert "gradient" not in findings


def test_a_worker_that_is_not_ready_is_a_warning() -> None:
    with ScriptedServer() as server:
        states = (pb.WORKER_STATE_READY, pb.WORKER_STATE_RECOVERING)
        server.info = lambda: info(*states, addresses=(server.address, server.address))
        finding = examine(server.address)["workers"]
    assert (finding.level, finding.text) == (Level.WARNING, "1 of 2 ready; npu:1 is recovering")


def test_a_worker_that_is_not_reached_is_a_warning() -> None:
    with ScriptedServer() as server:
        states = (pb.WORKER_STATE_READY, pb.WORKER_STATE_READY)
        server.info = lambda: info(*states, addresses=(server.address, "127.0.0.1:1"))
        finding = examine(server.address)["workers"]
    assert finding.level is Level.WARNING
    assert finding.text == "2 of 2 ready; 1 unreachable from here, e.g. npu:1 at 127.0.0.1:1"


def refuse(requests: Iterator[StreamRequest]) -> Iterator[bytes]:
    for request in requests:
        for header in request.headers:
            yield refused(header.id, Reason.INTERNAL, "the device is gone")


def wrong(requests: Iterator[StreamRequest]) -> Iterator[bytes]:
    for request in requests:
        results = [pb.GradientResult(id=chunk.id, y=bytes(len(chunk.predict))) for chunk in request.chunks]
        yield pb.StreamGradientsResponse(results=results).SerializeToString()


@pytest.mark.parametrize(("script", "text"), [(refuse, "the device is gone"), (wrong, "differs from the formula")])
def test_a_gradient_that_fails_or_is_wrong_is_an_error(script: Script, text: str) -> None:
    finding = examine_scripted(info(pb.WORKER_STATE_READY), script)["gradient"]
    assert finding.level is Level.ERROR
    assert text in finding.text


def test_a_direct_connection_that_does_not_stand_is_a_warning_that_says_why() -> None:
    with held_port() as port, ScriptedServer(direct=pb.DirectOffer(port=port, secret=bytes(32))) as server:
        server.info = lambda: info(pb.WORKER_STATE_READY)
        findings = examine(server.address)
    finding = findings["transport"]
    assert finding.level is Level.WARNING
    assert finding.text.startswith(f"stream; no direct connection: no connection to port {port}: ")
    assert "requests use the slower stream" in finding.advice
    assert findings["gradient"].level is Level.OK


def test_a_proxy_on_the_way_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("no_proxy", "NO_PROXY", "no_grpc_proxy", "grpc_proxy", "https_proxy"):
        monkeypatch.delenv(name, raising=False)
    offer = pb.DirectOffer(port=1, secret=bytes(32))
    with ScriptedServer(direct=offer) as server, TunnelProxy(server.address) as proxy:
        server.info = lambda: info(pb.WORKER_STATE_READY)
        monkeypatch.setenv("http_proxy", f"http://{proxy.address}")
        assert "proxy" not in examine(server.address)
        findings = examine("npu.invalid:50051")
    assert findings["proxy"].level is Level.WARNING
    assert findings["proxy"].text == f"gRPC goes through the proxy {proxy.address} (http_proxy)"
    assert findings["proxy"].advice == "if you do not want that, set no_proxy=npu.invalid"
    assert findings["transport"].level is Level.OK
    assert "no connection to port 1: the server is reached through a proxy" in findings["transport"].text
    assert findings["gradient"].level is Level.OK
