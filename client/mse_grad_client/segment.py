"""What only Linux has: memory without a name, and connections that pass its descriptor."""

from __future__ import annotations

import array
import mmap
import os
import select
import socket
import sys

__all__ = [
    "IS_SUPPORTED",
    "Segment",
    "comes_before_room",
    "connect",
    "exchange_packets",
    "has_ended",
    "send_now",
]

IS_SUPPORTED = sys.platform == "linux"
"""Whether anything else here may be called."""

_MOST_ANSWER_BYTES = 65536


class Segment:
    """Memory of a fixed size that a server may map too; zeroed. Its pages are taken when they are first written.

    Attributes:
        number: Names it on every connection; never used twice in a region.
        size_bytes: Its size.
        contents: All of it. The memory lives as long as a view of it, also after `close`.
    """

    contents: memoryview

    def __init__(self, number: int, size_bytes: int) -> None:
        """Makes it; raises OSError where there is no descriptor, or no room in the address space, left."""
        self.number = number
        self.size_bytes = size_bytes
        self._descriptor: int | None = None
        if sys.platform != "linux":
            raise OSError("memory without a name needs Linux")
        import fcntl

        self._descriptor = os.memfd_create("mse-grad", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(self._descriptor, size_bytes)
            # A server maps nothing that could shrink under it.
            seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
            fcntl.fcntl(self._descriptor, fcntl.F_ADD_SEALS, seals)
            self.contents = memoryview(mmap.mmap(self._descriptor, size_bytes))
        except BaseException:
            self.close()
            raise

    @property
    def descriptor(self) -> int:
        """Returns the descriptor to pass on; raises OSError once it is closed."""
        if self._descriptor is None:
            raise OSError("the segment is closed")
        return self._descriptor

    def close(self) -> None:
        """Closes the descriptor, so that it can be handed over no more; a second call does nothing."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)


def connect(name: str, *, timeout_s: float) -> socket.socket:
    """Returns a connection to the abstract address `name`; raises OSError where nobody listens there."""
    if sys.platform != "linux":
        raise OSError("abstract addresses need Linux")
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        connection.settimeout(timeout_s)
        connection.connect(f"\0{name}")
    except OSError:
        connection.close()
        raise
    return connection


def exchange_packets(connection: socket.socket, packet: bytes, descriptors: list[int]) -> bytes:
    """Sends a packet with descriptors and returns the next one, empty at the end; raises OSError, or TimeoutError."""
    if sys.platform != "linux":
        raise OSError("descriptors are passed on Linux")
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
    connection.sendmsg([packet], rights, socket.MSG_NOSIGNAL)
    return connection.recv(_MOST_ANSWER_BYTES)


def send_now(connection: socket.socket, packet: bytes) -> bool:
    """Sends a packet, or returns False where there is no room now; raises OSError where the other side is gone."""
    if sys.platform != "linux":
        return False
    try:
        connection.send(packet, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
    except BlockingIOError:
        return False
    return True


def comes_before_room(connection: socket.socket) -> bool:
    """Waits until there is something to read, or room to send; returns whether the first."""
    if sys.platform != "linux":
        return True
    poll = select.poll()
    poll.register(connection, select.POLLIN | select.POLLOUT)
    return any(events & ~select.POLLOUT for _, events in poll.poll())


def has_ended(connection: socket.socket, *, timeout_s: float) -> bool:
    """Waits until the other side has closed the connection, or this one had; returns whether that came in time."""
    if sys.platform != "linux":
        return True
    poll = select.poll()
    try:
        poll.register(connection, select.POLLIN)
        return bool(poll.poll(1000 * timeout_s)) and not connection.recv(1)
    except (OSError, ValueError):  # it was reset, or closed on this side
        return True
