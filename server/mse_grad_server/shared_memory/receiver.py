"""Parent side of the helper process that receives clients' descriptors; see `receiver_process`."""

from __future__ import annotations

import array
import asyncio
import os
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from mse_grad_server.errors import ServerError, SharedMemoryFull, SharedMemoryUnusable
from mse_grad_server.process.clock import Clock, Timer
from mse_grad_server.shared_memory.receiver_process import (
    IS_NO_MEMORY,
    IS_TOO_LARGE,
    IS_WHOLE,
    MOST_DESCRIPTORS,
    MOST_PACKET_BYTES,
    receive,
)

__all__ = ["Received", "Receiver"]

_PROGRAM = str(Path(__file__).with_name("receiver_process.py"))
# Longest time for an answer. A process that has started answers within a millisecond.
_ANSWER_TIMEOUT_S = 10.0
# Most processes that may wait for the file system of a descriptor, and the time that the server waits for them when it
# ends.
_MOST_LEAVING = 16
_LEAVING_S = 2.0


class Received(NamedTuple):
    """Packet and its descriptors, which the callback must close; both are empty if the client is gone."""

    packet: bytes
    descriptors: list[int]


class _Job(NamedTuple):
    connection: socket.socket
    on_received: Callable[[Received | ServerError], None]


class Receiver:
    """Queue of packets for the helper process, which receives one at a time; belongs to the event loop.

    The process starts with the first packet. If a descriptor was no memory, the process may hang, so it is replaced.

    Args:
        clock: Clock of the time-out.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._jobs: deque[_Job] = deque()
        self._timer: Timer | None = None
        self._socket: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._leaving: list[subprocess.Popen[bytes]] = []

    def receive(self, connection: socket.socket, on_received: Callable[[Received | ServerError], None]) -> None:
        """Receives the packet that has arrived on `connection`.

        Args:
            connection: Socket with an unread packet; the caller must not read before `on_received` is called.
            on_received: Called once, perhaps before this method returns: with the packet; with SharedMemoryUnusable if
                the packet was received and refused; or with SharedMemoryFull if it could not be received, after which
                the connection must be closed.
        """
        self._jobs.append(_Job(connection, on_received))
        if len(self._jobs) == 1:
            self._start_next()

    def discard(self, connection: socket.socket) -> None:
        """Closes a connection with unread descriptors, at the exit of a process of its own: there no socket lingers."""
        try:
            process, link = self._start_process(connection.fileno())
        except OSError:
            connection.close()
            return
        connection.close()
        link.close()
        process.kill()
        self._leaving.append(process)

    def close(self) -> None:
        """Ends the process; no callback is called afterwards."""
        self._jobs.clear()
        self._discard_process()
        end_s = time.monotonic() + _LEAVING_S
        for process in self._leaving:
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, end_s - time.monotonic()))

    def _start_next(self) -> None:
        while self._jobs:
            job = self._jobs[0]
            if job.connection.fileno() < 0:  # closed meanwhile
                self._jobs.popleft()
                job.on_received(Received(b"", []))
                continue
            rights = array.array("i", [job.connection.fileno()])
            try:
                self._open_process().sendmsg([b"\0"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
            except OSError as error:
                self._discard_process()
                self._jobs.popleft()
                job.on_received(SharedMemoryFull(f"the server cannot receive descriptors: {error.strerror}"))
                continue
            self._timer = self._clock.call_at(self._clock.now() + _ANSWER_TIMEOUT_S, self._on_timeout)
            return

    def _open_process(self) -> socket.socket:
        if self._socket is None:
            self._process, self._socket = self._start_process()
            asyncio.get_running_loop().add_reader(self._socket, self._on_answer)
        return self._socket

    def _start_process(self, *inherited: int) -> tuple[subprocess.Popen[bytes], socket.socket]:
        """Returns a new process, which also has the descriptors `inherited`, and its socket; raises OSError."""
        self._leaving = [process for process in self._leaving if process.poll() is None]
        if len(self._leaving) >= _MOST_LEAVING:
            raise OSError(0, f"{_MOST_LEAVING} processes wait for a file system that a client handed over")
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            try:
                process = subprocess.Popen(
                    [sys.executable, "-I", "-S", _PROGRAM, str(theirs.fileno())],
                    pass_fds=[theirs.fileno(), *inherited],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    start_new_session=True,  # a signal from a terminal is for the server only
                )
            except OSError:
                ours.close()
                raise
        ours.setblocking(False)
        return process, ours

    def _on_answer(self) -> None:
        assert self._socket is not None
        received: Received | ServerError
        try:
            received = _read_answer(self._socket)
        except BlockingIOError:
            return
        except ServerError as error:
            self._discard_process()
            received = error
        self._end_job(received)

    def _on_timeout(self) -> None:
        self._discard_process()
        self._end_job(SharedMemoryFull("the process that receives descriptors does not answer"))

    def _end_job(self, received: Received | ServerError) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self._jobs:  # the process ended between two packets
            return
        job = self._jobs.popleft()
        job.on_received(received)
        self._start_next()

    def _discard_process(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket)
            self._socket.close()
            self._socket = None
        if self._process is not None:
            self._process.kill()
            self._leaving.append(self._process)
            self._process = None


def _read_answer(process: socket.socket) -> Received:
    try:
        answer, descriptors, is_whole = receive(process, 1 + MOST_PACKET_BYTES)
    except ConnectionError:
        answer, descriptors, is_whole = b"", [], True
    kind, packet = answer[:1], answer[1:]
    if kind == IS_WHOLE and is_whole:
        return Received(packet, descriptors)
    for descriptor in descriptors:
        os.close(descriptor)
    if kind == IS_NO_MEMORY:
        raise SharedMemoryUnusable("a descriptor is not memory; it must come from memfd_create(2)")
    if kind == IS_TOO_LARGE:
        raise SharedMemoryUnusable(
            f"a packet has at most {MOST_PACKET_BYTES} bytes and {MOST_DESCRIPTORS} descriptors, not more"
        )
    raise SharedMemoryFull("the process that receives descriptors has ended" if is_whole else "no descriptor is free")
