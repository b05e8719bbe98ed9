"""Reference cycles: SDK calls leave none, so arrays are freed when the caller drops them, not at a collection."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Callable
from contextlib import suppress

import numpy as np
import pytest

from mse_grad.tensor import Array
from mse_grad_client import ClientOptions, DeadlineExceeded, InvalidArgument, MseGradClient
from support.garbage import kept_garbage
from support.server.server_process import ServerProcess
from support.values import operands

Call = Callable[[MseGradClient], object]
OVER_TCP = ClientOptions(shared_memory=False, direct=False)
DIRECT = ClientOptions(shared_memory=False)


def compute(elements: int) -> Call:
    given = operands((elements,))
    return lambda client: client.compute(*given)


def in_place(client: MseGradClient) -> object:
    given = [client.empty((50_000,), np.float32) for _ in range(4)]
    for array in given[:3]:
        array[...] = 1
    return client.compute(given[0], given[1], given[2], out=given[3])


def many(client: MseGradClient) -> object:
    return client.compute_many([operands((100,)) for _ in range(200)])


def refused(client: MseGradClient) -> object:
    predict, label, dout = operands((100,))
    with pytest.raises(InvalidArgument):
        client.compute(predict, label, dout, "mean", numel=1)
    return None


def late(client: MseGradClient) -> object:
    given = operands((1_000_000,))
    with suppress(DeadlineExceeded):
        while True:  # the answer may come before a busy machine sees that the time is over
            client.compute(*given, timeout_s=1e-6)
    return None


CALLS: dict[str, tuple[Call, ClientOptions]] = {
    "packets": (compute(1000), ClientOptions()),
    "copied through shared memory": (compute(50_000), ClientOptions()),
    "in shared memory": (in_place, ClientOptions()),
    "the stream": (compute(1000), OVER_TCP),
    "the stream, many chunks": (compute(1_000_000), OVER_TCP),
    "a direct connection": (compute(1000), DIRECT),
    "a direct connection, many chunks": (compute(1_000_000), DIRECT),
    "compute_many over a direct connection": (many, DIRECT),
    "one unary call": (lambda client: client.compute_unary(*operands((1000,))), ClientOptions()),
    "compute_many": (many, ClientOptions()),
    "compute_many over TCP": (many, OVER_TCP),
    "a refusal": (refused, ClientOptions()),
    "a deadline": (late, ClientOptions()),
    "a deadline over TCP": (late, OVER_TCP),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_call_leaves_no_cycle_that_holds_a_request_or_an_array(server: ServerProcess, name: str) -> None:
    call, options = CALLS[name]
    with MseGradClient(server.address, options=options) as client:
        for _ in range(3):
            call(client)
        with kept_garbage():
            for _ in range(5):
                call(client)
            gc.collect()
            kinds = Counter(type(found).__name__ for found in gc.garbage)
    assert not {"GradientRequest", "Exchange", "SharedExchange", "ndarray", "memoryview"} & kinds.keys(), kinds


def test_the_collector_would_show_such_a_cycle() -> None:
    with kept_garbage():
        cycle: list[object] = [np.zeros(3)]
        cycle.append(cycle)
        del cycle
        gc.collect()
        arrays: list[Array] = [found[0] for found in gc.garbage if isinstance(found, list) and found[1] is found]
    assert len(arrays) == 1
