"""Connections of a fuzzer: streams over gRPC, frames and packets, and what stands beside them, in one thread each."""

from __future__ import annotations

import array
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from queue import SimpleQueue
from typing import Any, Protocol

import grpc

from fuzz.verdicts import Wrong
from mse_grad.frames import HEAD_BYTES, head
from mse_grad.v1 import mse_grad_pb2 as pb

__all__ = ["PATIENCE_S", "STREAM", "Frames", "Packets", "Peer", "Rpc", "connected", "handover_socket", "opened_rpc"]

PATIENCE_S = 30.0
"""How long an answer may take; the server has no cause to take so long."""

STREAM = "/mse_grad.v1.MseGradService/StreamGradients"
_MOST_ANSWER_BYTES = 1 << 20


class Peer(Protocol):
    """A stream of messages."""

    def send(self, message: bytes) -> None:
        """Sends a message; a stream that has ended takes it in silence."""

    def receive(self) -> bytes | None:
        """Returns the next message; None after the end. Raises grpc.RpcError if an RPC failed."""

    def close(self) -> None:
        """Ends the stream."""


class Rpc:
    """A StreamGradients RPC."""

    def __init__(self, channel: Any, *, compression: grpc.Compression | None = None) -> None:
        self._messages: SimpleQueue[bytes | None] = SimpleQueue()
        self._call = channel.stream_stream(STREAM)(
            iter(self._messages.get, None), timeout=2 * PATIENCE_S, compression=compression
        )

    def send(self, message: bytes) -> None:
        self._messages.put(message)

    def receive(self) -> bytes | None:
        try:
            message: bytes = next(self._call)
            return message
        except StopIteration:
            return None
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED and "Deadline Exceeded" in (error.details() or ""):
                raise Wrong(f"no answer for {2 * PATIENCE_S:g} s") from error
            raise

    def close(self) -> None:
        self._call.cancel()
        self._messages.put(None)


class _Socket:
    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        connection.settimeout(PATIENCE_S)

    def close(self) -> None:
        self.socket.close()

    def send_raw(self, data: bytes) -> None:
        """Sends bytes as they are; a connection that has ended takes them in silence."""
        try:
            self.socket.sendall(data)
        except TimeoutError as error:
            raise Wrong(f"the server reads nothing for {PATIENCE_S:g} s") from error
        except OSError:
            pass

    def _received(self, size_bytes: int) -> bytes:
        try:
            try:
                return self.socket.recv(size_bytes)
            except ConnectionResetError:  # a unix socket reports it before the packets that are left
                return self.socket.recv(size_bytes)
        except TimeoutError as error:
            raise Wrong(f"no answer for {PATIENCE_S:g} s") from error
        except OSError:
            return b""


class Frames(_Socket):
    """A direct connection."""

    def send(self, message: bytes) -> None:
        self.send_raw(head(len(message)) + message)

    def receive(self) -> bytes | None:
        size = self._exactly(HEAD_BYTES)
        return None if size is None else self._exactly(int.from_bytes(size, "big"))

    def _exactly(self, size_bytes: int) -> bytes | None:
        parts = b""
        while len(parts) < size_bytes:
            part = self._received(size_bytes - len(parts))
            if not part:
                return None
            parts += part
        return parts


class Packets(_Socket):
    """A unix socket, for requests or for a handover."""

    def send(self, message: bytes, descriptors: Sequence[int] = ()) -> None:
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
        try:
            self.socket.sendmsg([message], rights)
        except TimeoutError as error:
            raise Wrong(f"the server reads nothing for {PATIENCE_S:g} s") from error
        except OSError:
            pass

    def receive(self) -> bytes | None:
        return self._received(_MOST_ANSWER_BYTES) or None


@contextmanager
def opened_rpc(channel: Any, *, compression: grpc.Compression | None = None) -> Iterator[tuple[Rpc, pb.StreamOpened]]:
    """Opens a stream; yields it and the facts in its first message."""
    rpc = Rpc(channel, compression=compression)
    try:
        first = rpc.receive()
        if first is None:
            raise Wrong("the stream ended before its first message")
        yield rpc, pb.StreamGradientsResponse.FromString(first).opened
    finally:
        rpc.close()


@contextmanager
def connected(opened: pb.StreamOpened) -> Iterator[Frames]:
    """Connects to the port of direct connections; shows no secret yet."""
    with socket.create_connection(("127.0.0.1", opened.direct.port), PATIENCE_S) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield Frames(connection)


@contextmanager
def handover_socket(opened: pb.StreamOpened) -> Iterator[Packets]:
    """Connects to the socket of shared memory; shows no secret yet."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
        connection.settimeout(PATIENCE_S)
        connection.connect(f"\0{opened.shared_memory.socket_name}")
        with suppress(OSError):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        yield Packets(connection)
