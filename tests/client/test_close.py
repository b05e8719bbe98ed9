"""What a closed client leaves behind."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

import grpc
import numpy as np

from mse_grad_client import MseGradClient, call
from support.operands import expected, operands
from support.scripted_server import ScriptedServer
from support.waiting import wait_until


@contextmanager
def no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def calls_alive() -> set[int]:
    # By its type: `isinstance` asks the object itself, and some of another library's warn when they are looked at.
    return {id(thing) for thing in gc.get_objects() if issubclass(type(thing), (grpc.Call, call.DirectCall))}


def test_no_rpc_is_left_to_the_end_of_the_interpreter(each_call: str) -> None:
    # Collected there, gRPC's call may wait for ever for a lock that a stopped thread holds: the process would not end.
    given = operands((100,))
    with ScriptedServer() as server, no_collector():
        before = calls_alive()
        with MseGradClient(server.address) as client:
            np.testing.assert_array_equal(client.compute(*given), expected(*given))
            assert calls_alive() - before
        # One of gRPC's threads may be about to let go of it.
        wait_until(lambda: not calls_alive() - before)
