"""The client of the plain server, as its own process: what the SDK teaches the malloc of a process must not help it."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection

from benchmarks.operands import Operands
from benchmarks.peers.ways import operands as ways
from benchmarks.peers.ways import plain_grpcio
from benchmarks.turns import timed_calls
from mse_grad.tensor import Array

__all__ = ["PlainCall", "PlainClient", "plain_client"]


class PlainCall:
    """One prepared call in the process of the client."""

    def __init__(self, commands: Connection) -> None:
        self._commands = commands

    def __call__(self) -> Array:
        """Returns the gradient."""
        self._commands.send(None)
        y: Array = self._commands.recv()
        return y

    def turn(self, budget_s: float) -> list[float]:
        """Calls for about that long; returns the time of each call, in seconds."""
        self._commands.send(budget_s)
        times_s: list[float] = self._commands.recv()
        return times_s


class PlainClient:
    """A process with one channel to the plain server."""

    def __init__(self, commands: Connection) -> None:
        self._commands = commands

    def prepare(self, operands: Operands) -> PlainCall:
        """Hands the operands over; the call before is forgotten."""
        self._commands.send(ways.Operands(operands.predict, operands.label, operands.dout, operands.golden))
        return PlainCall(self._commands)


@contextmanager
def plain_client(address: str) -> Iterator[PlainClient]:
    """Runs the process for the body of the `with`."""
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    process = spawn.Process(target=_work, args=(theirs, address), daemon=True)
    process.start()
    theirs.close()
    try:
        yield PlainClient(ours)
    finally:
        ours.close()  # its sign to end
        process.join()


def _work(commands: Connection, address: str) -> None:
    prepare = plain_grpcio.connect(address)
    with suppress(EOFError):
        call = prepare(commands.recv())
        while True:
            command = commands.recv()
            if command is None:
                commands.send(call())
            elif isinstance(command, float):
                commands.send(timed_calls(call, command))
            else:
                call = prepare(command)
