"""Unix sockets that carry packets and file descriptors between processes of one host."""

from __future__ import annotations

import array
import select
import socket
import struct
import sys

from mse_grad.descriptors import refuse_descriptors
from mse_grad_client.interrupts import LONGEST_SLEEP_S, raise_foreign

__all__ = [
    "bound_receives",
    "connect",
    "receive_packet",
    "receive_soon",
    "send_now",
    "send_packet",
    "wait_closed",
    "wait_readable",
]

_MAX_ANSWER_BYTES = 65536
# The flags are joined once: joining two members of an enum takes 5 us. Other systems lack the names, and never send.
_SEND_NOW = int(getattr(socket, "MSG_DONTWAIT", 0) | getattr(socket, "MSG_NOSIGNAL", 0))


def connect(address: str, *, timeout_s: float) -> socket.socket:
    """Returns a connection to a path, or to an abstract address, which begins with a zero byte.

    Raises:
        OSError: No process listens there.
    """
    if sys.platform != "linux":
        raise OSError("sockets for packets with descriptors need Linux")
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    refuse_descriptors(connection)  # to close one may take longer than any deadline
    try:
        connection.settimeout(timeout_s)
        connection.connect(address)
    except OSError:
        connection.close()
        raise
    return connection


def send_packet(connection: socket.socket, packet: bytes, descriptors: list[int]) -> None:
    """Sends a packet with file descriptors; raises OSError."""
    if sys.platform != "linux":
        raise OSError("descriptors are passed on Linux")
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
    connection.sendmsg([packet], rights, socket.MSG_NOSIGNAL)


def receive_packet(connection: socket.socket) -> bytes:
    """Returns the next packet, or b"" at the end of the connection; raises OSError or TimeoutError."""
    return connection.recv(_MAX_ANSWER_BYTES)


def send_now(connection: socket.socket, packet: bytes) -> bool:
    """Sends a packet without blocking.

    Returns:
        False if the kernel has no room for the packet now.

    Raises:
        OSError: The other side has closed the connection.
    """
    if sys.platform != "linux":
        return False
    try:
        connection.send(packet, _SEND_NOW)
    except BlockingIOError:
        return False
    return True


def bound_receives(connection: socket.socket) -> None:
    """Lets each receive on a blocking connection return after LONGEST_SLEEP_S, with or without a packet."""
    sleep = struct.pack("@ll", 0, int(LONGEST_SLEEP_S * 1e6))  # struct timeval
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, sleep)


def receive_soon(connection: socket.socket, buffer: bytearray) -> int | None:
    """Receives a packet into `buffer`; see `bound_receives`.

    Returns:
        The packet's size, 0 at the end of the connection, or None if no packet came in time.

    Raises:
        OSError: The connection has failed.
    """
    try:
        return connection.recv_into(buffer)
    except BlockingIOError:
        return None


def wait_readable(connection: socket.socket) -> bool:
    """Blocks until the socket is readable or writable; returns True if it is readable."""
    if sys.platform != "linux":
        return True
    poll = select.poll()
    poll.register(connection, select.POLLIN | select.POLLOUT)
    while not (found := poll.poll(1000 * LONGEST_SLEEP_S)):
        pass
    return any(events & ~select.POLLOUT for _, events in found)


def wait_closed(connection: socket.socket, *, timeout_s: float) -> bool:
    """Waits until either side has closed the connection; returns whether that happened within `timeout_s`."""
    if sys.platform != "linux":
        return True
    poll = select.poll()
    try:
        poll.register(connection, select.POLLIN)
        return bool(poll.poll(1000 * timeout_s)) and not connection.recv(1)
    except (OSError, ValueError) as error:  # the connection was reset, or closed on this side
        raise_foreign(error)
        return True
