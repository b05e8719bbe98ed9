"""Several scripted servers that name one another as the workers of one server."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack

import numpy as np

from mse_grad.v1 import mse_grad_pb2 as pb
from mse_grad_client import MseGradClient
from support.operands import expected, operands
from support.scripted_server import Script, ScriptedServer, answer_all

__all__ = ["PATIENCE_S", "ScriptedWorkers", "compute_until"]

# How long a test waits for what must come; only a failing one ever waits that long.
PATIENCE_S = 30.0


class ScriptedWorkers:
    """Workers with an address each; every one says of all where they are and in which state.

    Args:
        scripts: What the streams of each worker do.

    Attributes:
        servers: The workers, by their number.
        states: Worker -> state that it and the others tell of it.
        endpoints: What GetServerInfo names beside the workers.
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
        """Returns workers that answer everything."""
        return cls(*[answer_all] * count)

    @property
    def address(self) -> str:
        """The address of the first, which a client is given."""
        return self.servers[0].address

    @property
    def received(self) -> list[int]:
        """How many messages each worker received."""
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
    """Computes gradients, each of which must be right, until `condition` holds."""
    give_up_s = time.monotonic() + PATIENCE_S
    given = operands((100,))
    while not condition():
        assert time.monotonic() < give_up_s, "it did not come true"
        np.testing.assert_array_equal(client.compute(*given, timeout_s=PATIENCE_S), expected(*given))
