"""Paths from a client to the same gradients of one server: RPCs, direct connections, batches, shared memory."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace

import numpy as np

from mse_grad.tensor import Array
from mse_grad_cli.commands.connection import connect
from mse_grad_cli.conformance import Compute, Dout
from mse_grad_client.client import MseGradClient
from mse_grad_client.server_info import ServerInfo

__all__ = ["in_shared_memory", "one_of_many", "open_paths"]

# Chunk sizes and windows far below sensible ones: many chunks per tensor, each with a tail, and one or three under way.
_SMALL_CHUNKS = ((4096, 1), (20_000, 3))
# Three float64 operands of 70 001 elements, the largest that goes through every path.
_UNARY_BYTES = 2 * 1024 * 1024


def open_paths(client: MseGradClient, found: ServerInfo, stack: ExitStack) -> dict[str, Compute]:
    """Returns the paths from this client to the server, by name, each as a function like `compute`.

    Args:
        client: Connected client.
        found: Information of the server.
        stack: Closes the clients that this function opens.
    """
    paths: dict[str, Compute] = {}
    rpc = replace(client.options, shared_memory=False, direct=False)
    if found.limits.max_unary_bytes >= _UNARY_BYTES:
        paths["unary"] = client.compute_unary
    for chunk_bytes, window_chunks in _SMALL_CHUNKS:
        small = connect(client.address, replace(rpc, chunk_bytes=chunk_bytes, window_chunks=window_chunks))
        paths[f"stream in {chunk_bytes}-byte chunks"] = stack.enter_context(small).compute
    paths["one of many"] = one_of_many(client)
    if found.transport != "stream":
        paths["stream"] = stack.enter_context(connect(client.address, rpc)).compute
    if found.transport == "shared_memory":
        direct = stack.enter_context(connect(client.address, replace(client.options, shared_memory=False)))
        if direct.server_info().transport == "direct":
            paths["direct connection"] = direct.compute
        sharing = stack.enter_context(
            connect(client.address, replace(client.options, shared_from_bytes=0, copied_from_bytes=0))
        )
        paths["copied to shared memory"] = sharing.compute
        paths["in shared memory"] = in_shared_memory(sharing)
    return paths


def one_of_many(client: MseGradClient) -> Compute:
    """Returns a `compute` that sends its operands as the middle one of three items of `compute_many`."""

    def compute(predict: Array, label: Array, dout: Dout, reduction: str) -> Array:
        # Between other items of the same shape, so that it does not begin at the start of the request.
        other = np.ones_like(predict)
        others_dout = other if np.shape(dout) == predict.shape else dout
        items = [(other, label, others_dout), (predict, label, dout), (label, other, others_dout)]
        return client.compute_many(items, reduction)[1]

    return compute


def in_shared_memory(client: MseGradClient) -> Compute:
    """Returns a `compute` that copies its operands into arrays from `client.empty` and receives the result in one."""

    def shared(operand: Dout) -> Dout:
        if not isinstance(operand, np.ndarray):
            return operand
        array = client.empty(operand.shape, operand.dtype)
        array[...] = operand
        return array

    def compute(predict: Array, label: Array, dout: Dout, reduction: str) -> Array:
        out = client.empty(predict.shape, predict.dtype)
        return client.compute(shared(predict), shared(label), shared(dout), reduction, out=out)

    return compute
