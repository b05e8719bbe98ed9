"""The client of the plain server, as its own process: what the SDK teaches the malloc of a process must not help it."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection

import grpc
import numpy as np

from benchmarks.operands import REDUCTION, Operands
from benchmarks.plain_server import UNLIMITED
from benchmarks.turns import timed_calls
from mse_grad.tensor import DTYPES, Array
from mse_grad.v1 import mse_grad_pb2 as pb
from mse_grad.v1 import mse_grad_pb2_grpc as pb_grpc

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
        arrays = [np.asarray(array) for array in (operands.predict, operands.label, operands.dout)]
        self._commands.send((operands.dtype.name, [array.tobytes() for array in arrays]))
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
    with grpc.insecure_channel(address, options=UNLIMITED) as channel, suppress(EOFError):
        stub = pb_grpc.MseGradServiceStub(channel)
        call = _Call(stub, *commands.recv())
        while True:
            command = commands.recv()
            if command is None:
                commands.send(call())
            elif isinstance(command, float):
                commands.send(timed_calls(call, command))
            else:
                call = _Call(stub, *command)


class _Call:
    """What anyone would write first."""

    def __init__(self, stub: pb_grpc.MseGradServiceStub, dtype_name: str, operands: list[bytes]) -> None:
        self._stub = stub
        self._dtype = next(dtype for dtype in DTYPES if dtype.name == dtype_name)
        self._predict, self._label, self._dout = (np.frombuffer(data, self._dtype.numpy) for data in operands)

    def __call__(self) -> Array:
        request = pb.ComputeGradientRequest(
            predict=self._tensor(self._predict),
            label=self._tensor(self._label),
            dout=self._tensor(self._dout),
            reduction=int(REDUCTION),  # type: ignore[arg-type]
        )
        response = self._stub.ComputeGradient(request)
        y: Array = np.frombuffer(response.y.data, self._dtype.numpy).reshape(response.y.shape)
        return y

    def _tensor(self, array: Array) -> pb.Tensor:
        return pb.Tensor(dtype=self._dtype.wire, shape=array.shape, data=array.tobytes())  # type: ignore[arg-type]
