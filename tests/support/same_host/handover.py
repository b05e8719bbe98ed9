"""Memory and the packets that hand it over, step by step, for tests that break the rules."""

from __future__ import annotations

import array
import asyncio
import ctypes
import fcntl
import mmap
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

import numpy as np

from mse_grad.tensor import Array
from mse_grad.v1 import mse_grad_pb2 as pb

__all__ = ["SEALS", "RawHandover", "SharedBytes", "memfd", "punch_hole"]

SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW


@contextmanager
def memfd(size_bytes: int, *, seals: int = SEALS, flags: int = 0) -> Iterator[int]:
    """Provides a descriptor of new memory."""
    descriptor = os.memfd_create("mse-grad-test", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING | flags)
    try:
        os.ftruncate(descriptor, size_bytes)
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
        yield descriptor
    finally:
        os.close(descriptor)


def punch_hole(descriptor: int, size_bytes: int) -> None:
    """Releases the pages of memory; fallocate(2) allows it despite all seals except those against writing."""
    keep_size, punch = 1, 2
    libc = ctypes.CDLL(None, use_errno=True)
    result = libc.fallocate(descriptor, punch | keep_size, ctypes.c_long(0), ctypes.c_long(size_bytes))
    assert result == 0, os.strerror(ctypes.get_errno())


class SharedBytes:
    """Memory that a test and a server share.

    Attributes:
        contents: All of its bytes.
    """

    def __init__(self, size_bytes: int) -> None:
        with memfd(size_bytes) as descriptor:
            self._mapping = mmap.mmap(descriptor, size_bytes)
            self.descriptor = os.dup(descriptor)
        self.contents: Array = np.frombuffer(self._mapping, np.uint8)

    def __enter__(self) -> SharedBytes:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.descriptor)

    def put(self, offset: int, values: Array) -> None:
        self.contents[offset : offset + values.nbytes] = values.view(np.uint8)

    def get(self, offset: int, count: int, dtype: np.dtype[np.generic]) -> Array:
        return np.frombuffer(self.contents[offset : offset + count * dtype.itemsize].tobytes(), dtype)


class RawHandover:
    """A connection to the socket of an offer, packet by packet; a context manager for an event loop."""

    def __init__(self, opened: pb.StreamOpened, *, secret: bytes | None = None, instance_id: str | None = None) -> None:
        offer = opened.shared_memory
        self._first = pb.SharedMemoryHandover(
            instance_id=opened.instance_id if instance_id is None else instance_id,
            secret=offer.secret if secret is None else secret,
        )
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket.setblocking(False)
        self.socket.connect(f"\0{offer.socket_name}")

    def __enter__(self) -> RawHandover:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    async def hand_over(
        self, segments: Sequence[int] = (), descriptors: Sequence[int] = (), *, withdrawn: Sequence[int] = ()
    ) -> pb.SharedMemoryHandoverResult:
        """Sends one packet and returns its answer."""
        packet = pb.SharedMemoryHandover(segments=segments, withdrawn=withdrawn)
        packet.MergeFrom(self._first)
        self._first = pb.SharedMemoryHandover()
        return await self.send(packet.SerializeToString(), descriptors)

    async def ask_for_requests(self, descriptors: Sequence[int] = ()) -> pb.SharedMemoryHandoverResult:
        """Asks for the connection to carry requests and returns the answer."""
        return await self.send(self.question_for_requests(range(1, len(descriptors) + 1)), descriptors)

    def leave_asking_for_requests(self) -> None:
        """Asks for the same, and closes the connection before the server can answer."""
        self.socket.send(self.question_for_requests())
        self.socket.close()

    def question_for_requests(self, segments: Sequence[int] = ()) -> bytes:
        """Returns the packet that asks for the connection to carry requests."""
        packet = pb.SharedMemoryHandover(requests=True, segments=segments)
        packet.MergeFrom(self._first)
        return packet.SerializeToString()

    async def send(self, packet: bytes, descriptors: Sequence[int] = ()) -> pb.SharedMemoryHandoverResult:
        """Sends bytes and returns their answer, which may have come before: a server refuses some users at once."""
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
        with suppress(BrokenPipeError):
            self.socket.sendmsg([packet], rights)
        return await self.receive()

    async def receive(self) -> pb.SharedMemoryHandoverResult:
        """Returns the next answer; raises EOFError if the server closed the connection."""
        answer = await asyncio.wait_for(asyncio.get_running_loop().sock_recv(self.socket, 65536), 30)
        if not answer:
            raise EOFError
        return pb.SharedMemoryHandoverResult.FromString(answer)
