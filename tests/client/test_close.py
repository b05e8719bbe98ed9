"""Remains of a closed client."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

import grpc
import numpy as np

from mse_grad_client import MseGradClient
from mse_grad_client.stream import cygrpc_call
from support.client.scripted_server import ScriptedServer
from support.values import expected, operands
from support.waiting import wait_until


@contextmanager
def no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def calls_alive() -> dict[int, object]:
    # Looks at the type: `isinstance` asks the object itself, and objects of some libraries then warn.
    kinds = (grpc.Call, cygrpc_call.CygrpcCall)
    return {id(thing): thing for thing in gc.get_objects() if issubclass(type(thing), kinds)}


def test_no_rpc_is_left_to_the_end_of_the_interpreter(each_call: str) -> None:
    # At the interpreter's end, gRPC's call may wait for ever for a lock of a stopped thread, and the process would
    # hang.
    given = operands((100,))
    with ScriptedServer() as server, no_collector():
        before = calls_alive()  # held, so that no later call gets the id of one of them
        with MseGradClient(server.address) as client:
            np.testing.assert_array_equal(client.compute(*given), expected(*given))
            assert calls_alive().keys() - before.keys()
        # One of gRPC's threads may still hold a reference for a moment.
        wait_until(lambda: not calls_alive().keys() - before.keys())
