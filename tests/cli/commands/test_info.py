"""`mse-grad info` and the way that gradients take."""

from __future__ import annotations

import json
from pathlib import Path

from click.testing import CliRunner

from mse_grad.v1 import mse_grad_pb2 as pb
from mse_grad_cli.commands import mse_grad
from support.client.scripted_server import ScriptedServer
from support.ports import held_port
from support.server.server_process import running_server


def test_it_says_why_an_offered_direct_connection_does_not_stand() -> None:
    with held_port() as port, ScriptedServer(direct=pb.DirectOffer(port=port, secret=bytes(32))) as server:
        endpoint = pb.Endpoint(address=server.address, device="cpu:0", state=pb.WORKER_STATE_READY)
        server.info = lambda: pb.GetServerInfoResponse(endpoints=[endpoint])
        shown, told = (CliRunner().invoke(mse_grad, ["info", server.address, *flags]) for flags in ([], ["--json"]))
    assert (shown.exit_code, told.exit_code) == (0, 0)
    failure = f"no connection to port {port}: Connection refused"
    assert f"stream no direct connection: {failure}" in " ".join(shown.output.split())
    answer = json.loads(told.output)
    assert (answer["transport"], answer["direct_failure"]) == ("stream", failure)


def test_a_server_that_refuses_the_caller_is_not_said_to_be_down_and_the_flags_are_named(tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text("a-token-that-is-long-enough")
    with running_server("--token-file", str(tokens)) as guarded:
        result = CliRunner().invoke(mse_grad, ["info", guarded.address])
    assert result.exit_code == 3
    assert "TOKEN_MISSING" in result.output
    assert "--token-file" in result.output
    assert "running there" not in result.output
