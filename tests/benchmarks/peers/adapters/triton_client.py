"""Triton's client, whose gRPC part works with every server of the Open Inference Protocol."""

from __future__ import annotations

import atexit
import os
import time
from collections.abc import Callable

import numpy as np
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException, shared_memory

from benchmarks.peers.adapters.operands import Array, Call, Operands, Prepare

__all__ = ["over_grpc", "over_shared_memory"]

_DATATYPES = {"float32": "FP32", "float16": "FP16"}
_READY_TIMEOUT_S = 60.0
_READY_POLL_S = 0.1


def over_grpc(address: str, model: Callable[[str], str]) -> Prepare:
    """Returns calls with tensors as raw contents; `model` returns the name of the model for a dtype."""
    client = triton.InferenceServerClient(address)

    def prepare(operands: Operands) -> Call:
        dtype = operands.predict.dtype.name
        _wait_until_ready(client, model(dtype))
        given = {"predict": operands.predict, "label": operands.label, "dout": operands.dout}

        def call() -> Array:
            inputs = []
            for name, array in given.items():
                one = triton.InferInput(name, array.shape, _DATATYPES[dtype])
                one.set_data_from_numpy(array)
                inputs.append(one)
            y: Array = client.infer(model(dtype), inputs).as_numpy("y")
            return y

        return call

    return prepare


def over_shared_memory(address: str, model: Callable[[str], str], headers: dict[str, str]) -> Prepare:
    """Returns calls whose tensors lie in one region of system shared memory, filled before and read in place.

    Args:
        address: Address of the server.
        model: Returns the name of the model for a dtype.
        headers: Metadata that the server demands before it registers memory.
    """
    client = triton.InferenceServerClient(address)
    regions: list[object] = []

    def give_back() -> None:
        while regions:
            client.unregister_system_shared_memory(_region_name(), headers)
            shared_memory.destroy_shared_memory_region(regions.pop())

    atexit.register(give_back)

    def prepare(operands: Operands) -> Call:
        dtype, shape, size_bytes = operands.predict.dtype, operands.predict.shape, operands.predict.nbytes
        _wait_until_ready(client, model(dtype.name))
        give_back()
        name = _region_name()
        region = shared_memory.create_shared_memory_region(name, f"/{name}", 4 * size_bytes)
        regions.append(region)
        shared_memory.set_shared_memory_region(region, [operands.predict, operands.label, operands.dout])
        client.register_system_shared_memory(name, f"/{name}", 4 * size_bytes, headers=headers)
        inputs = []
        for number, tensor in enumerate(("predict", "label", "dout")):
            one = triton.InferInput(tensor, shape, _DATATYPES[dtype.name])
            one.set_shared_memory(name, size_bytes, number * size_bytes)
            inputs.append(one)
        output = triton.InferRequestedOutput("y")
        output.set_shared_memory(name, size_bytes, 3 * size_bytes)
        y = np.asarray(shared_memory.get_contents_as_numpy(region, dtype, shape, 3 * size_bytes))

        def call() -> Array:
            client.infer(model(dtype.name), inputs, outputs=[output])
            return y

        return call

    return prepare


def _region_name() -> str:
    return f"bench_peers_{os.getpid()}"


def _wait_until_ready(client: triton.InferenceServerClient, model: str) -> None:
    deadline = time.monotonic() + _READY_TIMEOUT_S
    why: InferenceServerException | None = None
    while time.monotonic() < deadline:
        try:
            if client.is_model_ready(model):
                return
        except InferenceServerException as error:
            why = error
        time.sleep(_READY_POLL_S)
    raise TimeoutError(f"the model {model} was not ready after {_READY_TIMEOUT_S} s") from why
