"""The SDK against the product's own server, which the driver starts as users do."""

from __future__ import annotations

import asyncio
import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TypeAlias

from benchmarks.peers.adapters.operands import Array, Call, Operands, Prepare
from benchmarks.peers.rows import CERTIFICATE
from mse_grad_client import AsyncMseGradClient, ClientOptions, MseGradClient

__all__ = [
    "DISTRIBUTION",
    "empty",
    "many",
    "many_over_wire",
    "same_host",
    "tasks",
    "tasks_over_wire",
    "threads",
    "threads_over_wire",
    "unary",
    "wire",
    "wire_of_grpc",
]

DISTRIBUTION = "mse-grad"

_WIRE = ClientOptions(shared_memory=False, tls_ca=os.environ.get(CERTIFICATE))
_WIRE_OF_GRPC = replace(_WIRE, direct=False)
_PATIENCE_S = 30.0
_CALLERS = 16

Item: TypeAlias = tuple[Array, Array, Array]


def wire(address: str) -> Prepare:
    """`compute` over the wire, as between two hosts."""
    return _ordinary(_wired(address))


def wire_of_grpc(address: str) -> Prepare:
    """The same without a direct connection."""
    return _ordinary(MseGradClient(address, options=_WIRE_OF_GRPC))


def same_host(address: str) -> Prepare:
    """`compute` by default, on ordinary arrays."""
    return _ordinary(MseGradClient(address))


def empty(address: str) -> Prepare:
    """`compute` with `out`, all four arrays from `MseGradClient.empty`."""
    client = MseGradClient(address)

    def prepare(operands: Operands) -> Call:
        given = (operands.predict, operands.label, operands.dout)
        shared = [client.empty(one.shape, one.dtype) for one in given]
        for target, source in zip(shared, given, strict=True):
            target[:] = source
        predict, label, dout = shared
        y = client.empty(predict.shape, predict.dtype)
        return lambda: client.compute(predict, label, dout, "sum", out=y)

    return prepare


def unary(address: str) -> Prepare:
    """`compute_unary` over the wire, with one request message and one response message."""
    client = MseGradClient(address, options=_WIRE)

    def prepare(operands: Operands) -> Call:
        predict, label, dout = operands.predict, operands.label, operands.dout
        return lambda: client.compute_unary(predict, label, dout, "sum")

    return prepare


def many(address: str) -> Prepare:
    """`compute_many` by default."""
    return _packed(MseGradClient(address))


def many_over_wire(address: str) -> Prepare:
    """`compute_many` over the wire, as between two hosts."""
    return _packed(_wired(address))


def threads(address: str) -> Prepare:
    """`compute` in 16 threads at a time, one gradient after another in each."""
    return _threaded(MseGradClient(address))


def threads_over_wire(address: str) -> Prepare:
    """As `threads`, over the wire."""
    return _threaded(_wired(address))


def tasks(address: str) -> Prepare:
    """`await compute` in 16 tasks of one thread, one gradient after another in each."""
    return _awaited(AsyncMseGradClient(address))


def tasks_over_wire(address: str) -> Prepare:
    """As `tasks`, over the wire."""
    return _awaited(AsyncMseGradClient(address, options=_WIRE))


def _wired(address: str) -> MseGradClient:
    """Returns a client with the connection that a long-lived client has: the first requests go on without it."""
    client = MseGradClient(address, options=_WIRE)
    deadline_s = time.monotonic() + _PATIENCE_S
    while not address.startswith("unix:") and client.server_info().transport != "direct":
        if time.monotonic() >= deadline_s:
            raise TimeoutError("the direct connection does not stand")
    return client


def _ordinary(client: MseGradClient) -> Prepare:
    def prepare(operands: Operands) -> Call:
        predict, label, dout = operands.predict, operands.label, operands.dout
        return lambda: client.compute(predict, label, dout, "sum")

    return prepare


def _packed(client: MseGradClient) -> Prepare:
    def prepare(operands: Operands) -> Call:
        items = _items(operands)

        return lambda: client.compute_many(items, "sum")

    return prepare


def _threaded(client: MseGradClient) -> Prepare:
    pool = ThreadPoolExecutor(_CALLERS)

    def prepare(operands: Operands) -> Call:
        items = _items(operands)
        shares = [items[start::_CALLERS] for start in range(_CALLERS)]

        def share(mine: list[Item]) -> list[Array]:
            return [client.compute(*item, "sum") for item in mine]

        return lambda: _in_order(list(pool.map(share, shares)))

    return prepare


def _awaited(client: AsyncMseGradClient) -> Prepare:
    loop = asyncio.new_event_loop()

    def prepare(operands: Operands) -> Call:
        items = _items(operands)
        shares = [items[start::_CALLERS] for start in range(_CALLERS)]

        async def share(mine: list[Item]) -> list[Array]:
            return [await client.compute(*item, "sum") for item in mine]

        async def all_shares() -> list[list[Array]]:
            return await asyncio.gather(*map(share, shares))

        return lambda: _in_order(loop.run_until_complete(all_shares()))

    return prepare


def _items(operands: Operands) -> list[Item]:
    rows = (one.reshape(operands.items, -1) for one in (operands.predict, operands.label, operands.dout))
    return list(zip(*rows, strict=True))


def _in_order(shares: list[list[Array]]) -> list[Array]:
    return [gradient for round in zip(*shares, strict=True) for gradient in round]
