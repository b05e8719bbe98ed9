"""Words of a server on the terminal."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from mse_grad.reasons import Reason
from mse_grad.v1 import mse_grad_pb2 as pb
from mse_grad_cli.commands import mse_grad
from support.client.scripted_server import ScriptedServer, refused

# Sets the terminal's title, colours, turns the direction of the text round, and begins a line of its own.
WORDS = "\x1b]0;title\x07\x1b[31m\x9b1m\u202e\rred\nline"


@pytest.mark.parametrize("command", [["info"], ["verify", "--quick"], ["doctor"], ["bench"]])
def test_a_terminal_obeys_no_server(command: list[str]) -> None:
    with ScriptedServer(
        lambda requests: (refused(one.id, Reason.DTYPE_UNKNOWN, WORDS) for each in requests for one in each.headers)
    ) as server:
        endpoint = pb.Endpoint(address=WORDS, device=WORDS, state=pb.WORKER_STATE_READY)
        server.info = lambda: pb.GetServerInfoResponse(
            version=WORDS, backend=WORDS, device=WORDS, instance_id=WORDS, kernel_hash=WORDS, endpoints=[endpoint]
        )
        shown = CliRunner().invoke(mse_grad, [*command, server.address], color=True)
    assert set(shown.output).isdisjoint("\x1b\x07\x9b\u202e\r")
    assert "\nline" not in shown.output
    assert r"\x1b[31m\x9b1m\u202e" in "".join(shown.output.split())


@pytest.mark.parametrize("reason", [Reason.DTYPE_UNKNOWN, Reason.NOT_OFFERED])
@pytest.mark.parametrize("command", ["compute", "bench"])
def test_nor_if_the_server_refuses_the_operands(command: str, reason: Reason, tmp_path: Path) -> None:
    operand = str(tmp_path / "x.npy")
    np.save(operand, np.ones(3, np.float32))
    with ScriptedServer(
        lambda requests: (refused(one.id, reason, WORDS) for each in requests for one in each.headers)
    ) as server:
        server.info = lambda: pb.GetServerInfoResponse(
            endpoints=[pb.Endpoint(address=server.address, state=pb.WORKER_STATE_READY)]
        )
        arguments = {"bench": ["bench", server.address], "compute": ["compute", *[operand] * 3, "-o", operand]}[command]
        shown = CliRunner().invoke(mse_grad, arguments, env={"MSE_GRAD_ADDR": server.address}, color=True)
    assert shown.exit_code in (2, 3)
    assert set(shown.output).isdisjoint("\x1b\x07\x9b\u202e\r")
    assert "\nline" not in shown.output
    assert r"\x1b[31m\x9b1m\u202e" in "".join(shown.output.split())
