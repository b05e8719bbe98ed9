"""Several scripted servers that name one another as the workers of one server."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack

import numpy as np

from mse_grad.v1 import mse_grad_pb2 as pb
from mse_grad_client import MseGradClient
from support.client.scripted_server import Script, ScriptedServer, answer_all
from support.values import expected, operands
from support.waiting import PATIENCE_S

__all__ = ["ScriptedWorkers", "compute_until"]


class ScriptedWorkers:
    """Workers with an address each; each reports the addresses and states of all.

    Args:
        scripts: What the streams of each worker do.

    Attributes:
        servers: The workers, by their number.
        states: Worker -> its state, as it and the others report it.
        endpoints: The endpoints that GetServerInfo names besides the workers.
        times_asked: How often GetServerInfo was called, over all workers.
    """

    def __init__(self, *scripts: Script) -> None:
        self.servers = [ScriptedServer(script) for script in scripts]
        self.states = [pb.WORKER_STATE_READY] * len(scripts)
        self.endpoints: list[pb.Endpoint] = []
        self.times_asked = 0
        self._stack = ExitStack()

    @classmethod
    def of(cls, count: int) -> ScriptedWorkers:
        """Returns workers that answer every request."""
        return cls(*[answer_all] * count)

    @property
    def address(self) -> str:
        """The address of the first worker, which clients are given."""
        return self.servers[0].address

    @property
    def received(self) -> list[int]:
        """The number of messages that each worker received."""
        return [len(server.requests) for server in self.servers]

    def __enter__(self) -> ScriptedWorkers:
        for server in self.servers:
            server.info = self._info
            self._stack.enter_context(server)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _info(self) -> pb.GetServerInfoResponse:
        self.times_asked += 1
        workers = [
            pb.Endpoint(address=server.address, device=f"npu:{number}", state=state)
            for number, (server, state) in enumerate(zip(self.servers, self.states, strict=True))
        ]
        return pb.GetServerInfoResponse(endpoints=[*workers, *self.endpoints])


def compute_until(client: MseGradClient, condition: Callable[[], bool]) -> None:
    """Computes and checks gradients until `condition` holds."""
    give_up_s = time.monotonic() + PATIENCE_S
    given = operands((100,))
    while not condition():
        assert time.monotonic() < give_up_s, "the condition did not become true"
        np.testing.assert_array_equal(client.compute(*given, timeout_s=PATIENCE_S), expected(*given))
