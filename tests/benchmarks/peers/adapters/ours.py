"""The SDK against the product's own server, which the driver starts as users do."""

from __future__ import annotations

from benchmarks.peers.adapters.operands import Call, Operands, Prepare
from mse_grad_client import ClientOptions, MseGradClient

__all__ = ["DISTRIBUTION", "empty", "many", "many_over_wire", "same_host", "unary", "wire"]

DISTRIBUTION = "mse-grad"

_WIRE = ClientOptions(shared_memory=False)


def wire(address: str) -> Prepare:
    """`compute` over the wire, as between two hosts."""
    return _ordinary(MseGradClient(address, options=_WIRE))


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
    return _packed(MseGradClient(address, options=_WIRE))


def _ordinary(client: MseGradClient) -> Prepare:
    def prepare(operands: Operands) -> Call:
        predict, label, dout = operands.predict, operands.label, operands.dout
        return lambda: client.compute(predict, label, dout, "sum")

    return prepare


def _packed(client: MseGradClient) -> Prepare:
    def prepare(operands: Operands) -> Call:
        rows = (one.reshape(operands.items, -1) for one in (operands.predict, operands.label, operands.dout))
        items = list(zip(*rows, strict=True))

        return lambda: client.compute_many(items, "sum")

    return prepare
