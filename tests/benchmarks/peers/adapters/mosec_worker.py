"""mosec: raw bytes over HTTP, one worker process behind the service."""

from __future__ import annotations

import http.client
import struct

import numpy as np
from mosec import Server, Worker

from benchmarks.peers.adapters.kernel import Kernel
from benchmarks.peers.adapters.operands import Array, Call, Operands, Prepare

__all__ = ["DISTRIBUTION", "Gradient", "connect", "serve"]

DISTRIBUTION = "mosec"

_HEADER = struct.Struct("<q")  # bytes of an element
_TIMEOUT_MS = 120_000


class Gradient(Worker):  # type: ignore[misc]
    """Takes the header and the bytes of three tensors, answers the bytes of the fourth."""

    def __init__(self) -> None:
        self._kernel = Kernel()

    def deserialize(self, data: bytes) -> Array:
        """Skips msgpack and JSON, as the documentation advises for data that consists of bytes already."""
        (itemsize,) = _HEADER.unpack_from(data)
        return np.frombuffer(data, f"f{itemsize}", offset=_HEADER.size).reshape(3, -1)

    def forward(self, data: Array) -> Array:
        """Computes one request at a time."""
        return self._kernel.gradient(*data)

    def serialize(self, data: Array) -> bytes:
        """Answers nothing but the bytes."""
        return data.tobytes()


def serve(_address: str) -> None:
    """Serves on the address in its environment variables."""
    server = Server()
    server.append_worker(Gradient, num=1, timeout=_TIMEOUT_MS // 1000)
    server.run()


def connect(address: str) -> Prepare:
    """One connection, kept alive."""
    connection = http.client.HTTPConnection(address)

    def prepare(operands: Operands) -> Call:
        tensors = [one.data.cast("B") for one in (operands.predict, operands.label, operands.dout)]
        dtype = operands.predict.dtype
        header = _HEADER.pack(dtype.itemsize)
        headers = {"Content-Length": str(len(header) + sum(map(len, tensors)))}

        def call() -> Array:
            connection.request("POST", "/inference", body=[header, *tensors], headers=headers)
            response = connection.getresponse()
            content = response.read()
            if response.status != http.HTTPStatus.OK:
                raise ConnectionError(f"mosec answered {response.status}: {content[:200]!r}")
            y: Array = np.frombuffer(content, dtype)
            return y

        return call

    return prepare
