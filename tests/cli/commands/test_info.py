"""`mse-grad info` and the way that gradients take."""

from __future__ import annotations

import json

from click.testing import CliRunner

from mse_grad.v1 import mse_grad_pb2 as pb
from mse_grad_cli.commands import mse_grad
from support.client.scripted_server import ScriptedServer
from support.ports import held_port


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
