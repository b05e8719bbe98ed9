"""Lower bound of a wire: the bytes of the tensors over a plain socket, with as few system calls as possible.

Both sides work on ranges of 64K elements, so that sending, computing and receiving overlap.
"""

from __future__ import annotations

import socket
import struct
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from benchmarks.peers.adapters.kernel import Kernel
from benchmarks.peers.adapters.operands import Array, Call, Operands, Prepare

__all__ = ["DISTRIBUTION", "connect", "serve"]

DISTRIBUTION = "numpy"  # the only thing it needs

_HEADER = struct.Struct("<qi4x")  # elements, bytes of an element
_RANGE = 2**16


def serve(address: str) -> None:
    """Serves each connection in its own thread."""
    kernel = Kernel()
    if address.startswith("unix:"):
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(address.removeprefix("unix:"))
    else:
        host, port = address.rsplit(":", 1)
        listener = socket.create_server((host, int(port)))
    listener.listen()
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=_answer, args=(connection, kernel), daemon=True).start()


def connect(address: str) -> Prepare:
    """One connection; large tensors are sent by a second thread, while this one receives."""
    connection = _connection(address)
    sender = ThreadPoolExecutor(max_workers=1)

    def prepare(operands: Operands) -> Call:
        predict, label, dout = operands.predict, operands.label, operands.dout
        elements = predict.size
        y = np.empty_like(predict)
        header = _HEADER.pack(elements, predict.itemsize)
        ranges = [slice(start, start + _RANGE) for start in range(0, elements, _RANGE)]

        def send() -> None:
            connection.sendall(header)
            for part in ranges:
                _send(connection, [operand[part].data.cast("B") for operand in (predict, label, dout)])

        def call() -> Array:
            if len(ranges) == 1:
                _send(connection, [memoryview(header), *(one.data.cast("B") for one in (predict, label, dout))])
                _receive(connection, y.data.cast("B"))
                return y
            sent = sender.submit(send)
            for part in ranges:
                _receive(connection, y[part].data.cast("B"))
            sent.result()
            return y

        return call

    return prepare


def _answer(connection: socket.socket, kernel: Kernel) -> None:
    if connection.family == socket.AF_INET:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    header = memoryview(bytearray(_HEADER.size))
    operands, y = np.empty(3 * _RANGE, np.float32), np.empty(_RANGE, np.float32)
    while connection.recv_into(header, flags=socket.MSG_WAITALL):
        elements, itemsize = _HEADER.unpack(header)
        dtype = np.dtype(f"f{itemsize}")
        for start in range(0, elements, _RANGE):
            count = min(_RANGE, elements - start)
            given = operands.view(dtype)[: 3 * count]
            _receive(connection, given.data.cast("B"))
            result = y.view(dtype)[:count]
            kernel.gradient_into(result, *given.reshape(3, count))
            connection.sendall(result.data.cast("B"))


def _connection(address: str) -> socket.socket:
    if address.startswith("unix:"):
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(address.removeprefix("unix:"))
        return connection
    host, port = address.rsplit(":", 1)
    connection = socket.create_connection((host, int(port)))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def _send(connection: socket.socket, parts: list[memoryview]) -> None:
    while parts:
        sent = connection.sendmsg(parts)
        while parts and sent >= len(parts[0]):
            sent -= len(parts.pop(0))
        if sent:
            parts[0] = parts[0][sent:]


def _receive(connection: socket.socket, target: memoryview) -> None:
    while target:
        received = connection.recv_into(target)
        if received == 0:
            raise ConnectionError("the other side closed the connection")
        target = target[received:]
