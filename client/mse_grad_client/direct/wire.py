"""Bytes to and from a server over TCP, plain or over TLS."""

from __future__ import annotations

import errno
import ipaddress
import math
import os
import select
import socket
import ssl
import struct
import sys
import threading
import time
from collections.abc import Sequence

from typing_extensions import override

from mse_grad.tensor import Buffer
from mse_grad.tls_socket import TlsSocket
from mse_grad_client.interrupts import LONGEST_SLEEP_S

__all__ = ["IS_SUPPORTED", "TlsWire", "Wire", "connect", "leads_here"]

IS_SUPPORTED = sys.platform != "win32"
"""Whether this system has the calls that direct connections need."""

_NOT_HERE = "direct connections need poll and sendmsg, which Windows lacks"
# Most buffers of one system call: IOV_MAX of Linux.
_MOST_BUFFERS = 1024
# A server that says nothing more is noticed after this time: probes, and data without acknowledgement.
_IDLE_S, _INTERVAL_S, _PROBES = 20, 5, 4
_SEND_NOW = int(getattr(socket, "MSG_DONTWAIT", 0) | getattr(socket, "MSG_NOSIGNAL", 0))


def connect(host: str, port: int, *, timeout_s: float) -> socket.socket:
    """Returns a connection that notices the end of a silent host; raises OSError."""
    try:
        connection = socket.create_connection((host, port), timeout_s)
    except (ValueError, OverflowError) as cause:  # text that no look-up takes, or a port beyond 65535
        raise OSError("the server offers a host or port that cannot be one") from cause
    try:
        # Where nobody listens, the kernel may pick the port itself for the near end, and the socket connects to itself.
        # It would hold the port against a server that starts.
        if connection.getsockname() == connection.getpeername():
            raise ConnectionRefusedError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if sys.platform == "linux":
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _IDLE_S)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _INTERVAL_S)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, _PROBES)
            unacknowledged_ms = 1000 * (_IDLE_S + _INTERVAL_S * _PROBES)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, unacknowledged_ms)
    except OSError:
        connection.close()
        raise
    return connection


def leads_here(connection: socket.socket) -> bool:
    """Whether the other end is an address that means another machine elsewhere: loopback or link-local."""
    ip = ipaddress.ip_address(connection.getpeername()[0].partition("%")[0])
    ip = getattr(ip, "ipv4_mapped", None) or ip
    return ip.is_loopback or ip.is_link_local


class Wire:
    """A plain TCP connection. One thread at a time sends, and one receives.

    Args:
        connection: A connected socket, which blocks; owned by this object.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection

    def send_all(self, message: bytes) -> None:
        """Sends the greeting; raises OSError. It waits as long as the socket's time-out."""
        self._connection.sendall(message)

    def begin(self) -> None:
        """Lets each receive return after LONGEST_SLEEP_S, with or without bytes; call it after the greeting."""
        sleep = struct.pack("@ll", 0, int(LONGEST_SLEEP_S * 1e6))  # struct timeval
        self._connection.settimeout(None)
        self._connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, sleep)

    def receive(self, room: memoryview) -> int | None:
        """Receives up to the size of `room`.

        Returns:
            The number of bytes, 0 at the end of the connection, or None if none came within LONGEST_SLEEP_S.

        Raises:
            OSError: The connection has failed.
        """
        try:
            return self._connection.recv_into(room)
        except BlockingIOError:
            return None

    def send(self, buffers: Sequence[Buffer]) -> int:
        """Sends as much of `buffers`, one after the other, as the kernel has room for; raises OSError.

        Args:
            buffers: They begin with the bytes that earlier calls did not count as sent.

        Returns:
            The number of bytes.
        """
        if sys.platform == "win32":
            raise OSError(_NOT_HERE)
        try:
            return self._connection.sendmsg(buffers[:_MOST_BUFFERS], (), _SEND_NOW)
        except BlockingIOError:
            return 0

    def wait(self) -> bool:
        """Blocks until the socket is readable or writable; returns whether it is readable."""
        while (is_readable := _is_readable(self._connection, or_writable=True)) is None:
            pass
        return is_readable

    def shutdown(self, how: int, /) -> None:
        """Closes one side or both; raises OSError if the connection has ended already."""
        self._connection.shutdown(how)

    def close(self) -> None:
        """Closes the connection."""
        self._connection.close()


class TlsWire(Wire):
    """A TCP connection over TLS. One thread at a time sends, and one receives.

    Args:
        connection: A connected socket, which blocks; owned by this object, even if an error is raised. Its time-out
            bounds the whole handshake: a server that sends a byte now and then would hold the thread for days.
        context: Certificates, and what is asked of the server.
        server_name: Name that the server's certificate must have.

    Raises:
        OSError: The handshake fails.
    """

    def __init__(self, connection: socket.socket, context: ssl.SSLContext, *, server_name: str) -> None:
        super().__init__(connection)
        self._lock = threading.Lock()  # OpenSSL allows one call at a time on a connection
        try:
            self._tls = TlsSocket(connection, context, server_hostname=server_name)
            self._shake_hands(connection.gettimeout())
        except OSError:
            connection.close()
            raise

    def _shake_hands(self, timeout_s: float | None) -> None:
        give_up_s = math.inf if timeout_s is None else time.monotonic() + timeout_s
        self._connection.setblocking(False)
        while not self._tls.shake_hands():
            left_s = give_up_s - time.monotonic()
            if left_s <= 0:
                raise TimeoutError("the server did not end the TLS handshake in time")
            _wait_for_handshake(self._connection, is_sending=self._tls.has_unsent, timeout_s=left_s)
        self._connection.settimeout(timeout_s)

    @override
    def send_all(self, message: bytes) -> None:
        self._tls.send([message])

    @override
    def begin(self) -> None:
        self._connection.setblocking(False)

    @override
    def receive(self, room: memoryview) -> int | None:
        received = self._receive_now(room)
        if received is None and _is_readable(self._connection, or_writable=False):
            received = self._receive_now(room)
        return received

    @override
    def send(self, buffers: Sequence[Buffer]) -> int:
        with self._lock:
            return self._tls.send(buffers)

    @override
    def wait(self) -> bool:
        return self._tls.may_hold_more or super().wait()

    def _receive_now(self, room: memoryview) -> int | None:
        with self._lock:
            return self._tls.receive_into(room)


def _wait_for_handshake(connection: socket.socket, *, is_sending: bool, timeout_s: float) -> None:
    if sys.platform == "win32":
        raise OSError(_NOT_HERE)
    poll = select.poll()
    poll.register(connection, select.POLLOUT if is_sending else select.POLLIN)
    poll.poll(1000 * min(timeout_s, LONGEST_SLEEP_S))


def _is_readable(connection: socket.socket, *, or_writable: bool) -> bool | None:
    """Waits at most LONGEST_SLEEP_S for a socket; returns whether it is readable, or None if nothing happened."""
    if sys.platform == "win32":
        raise OSError(_NOT_HERE)
    poll = select.poll()
    poll.register(connection, select.POLLIN | (select.POLLOUT if or_writable else 0))
    found = poll.poll(1000 * LONGEST_SLEEP_S)
    return bool(found[0][1] & ~select.POLLOUT) if found else None
