"""Handover of an allocator's segments to the worker that serves one stream."""

from __future__ import annotations

import os
import re
import socket
import threading
import time
from collections.abc import Sequence

from google.protobuf.message import DecodeError

from mse_grad.address import MEMORY_SUFFIX
from mse_grad.v1 import mse_grad_pb2 as pb
from mse_grad_client.interrupts import acquire, raise_foreign
from mse_grad_client.shared_memory.allocator import Allocator
from mse_grad_client.shared_memory.local_socket import (
    bound_receives,
    connect,
    receive_packet,
    send_packet,
    wait_closed,
)
from mse_grad_client.shared_memory.segment import Segment

__all__ = ["Handover", "HandoverFailed", "connect_for_requests"]

# A server's own sockets have such names, or such paths. The client connects to no other.
_SOCKET_NAME = r"mse-grad-[0-9A-Za-z-]{1,90}"
_UNIX = "unix:"
# The server answers in its event loop, which is never blocked for long.
_ANSWER_TIMEOUT_S = 2.0
# To a socket, a timeout of zero means not to wait at all.
_LEAST_WAIT_S = 0.001


class HandoverFailed(Exception):
    """The server cannot or will not map memory of this process; gradients go over the stream."""


class _Question:
    """A packet that the server has not answered yet.

    Attributes:
        segment: The segment that was handed over; None if segments were withdrawn.
        withdrawn: Numbers of the segments that were withdrawn.
        give_up_s: Time on the clock of time.monotonic after which no answer is expected.
    """

    __slots__ = ("give_up_s", "segment", "withdrawn")

    def __init__(self, segment: Segment | None, withdrawn: frozenset[int], give_up_s: float) -> None:
        self.segment = segment
        self.withdrawn = withdrawn
        self.give_up_s = give_up_s


class Handover:
    """A connection that hands segments over, as long as its stream lives. Thread-safe.

    A segment that was refused once is not offered again. A caller whose time is over before the server has answered
    goes on without the answer; the next caller receives it.

    Args:
        connection: Connection to the worker; see `open`.
        max_mapped_bytes: Bytes that the server maps at most.

    Attributes:
        is_open: Whether the server maps the segments that were handed over, as far as is known.
    """

    def __init__(self, connection: socket.socket, *, max_mapped_bytes: int) -> None:
        self.is_open = True
        self._connection = connection
        self._free_bytes = max_mapped_bytes
        self._lock = threading.Lock()
        self._mapped: frozenset[int] = frozenset()
        self._refused: frozenset[int] = frozenset()
        self._sizes_bytes: dict[int, int] = {}
        self._kept: tuple[Segment, ...] = ()
        self._question: _Question | None = None
        self._is_closed = False
        self._has_ended = False

    @classmethod
    def open(cls, opened: pb.StreamOpened, *, address: str = "") -> Handover:
        """Connects to the worker that opened a stream and shows it the stream's secret.

        Args:
            opened: The first message of the stream.
            address: Address of the worker; beside a unix address the client looks for a socket file too.

        Raises:
            HandoverFailed: The server offers no shared memory, or cannot be reached or refuses.
        """
        offer = opened.shared_memory
        connection = _connect(offer, address)
        try:
            _ask(connection, pb.SharedMemoryHandover(instance_id=opened.instance_id, secret=offer.secret))
        except HandoverFailed:
            connection.close()
            raise
        return cls(connection, max_mapped_bytes=offer.max_mapped_bytes)

    def has(self, segment: Segment, *, deadline: float | None = None) -> bool:
        """Returns whether the server has mapped the segment; hands it over first if that was not tried.

        Args:
            segment: A segment of the allocator.
            deadline: Time on the clock of time.monotonic at which to continue without an answer.
        """
        number = segment.number
        if number in self._mapped:
            return self.is_open
        if number in self._refused:
            return False
        if not acquire(self._lock, deadline):
            return False
        try:
            if self._settle(deadline) and number not in self._mapped and number not in self._refused:
                self._hand_over(segment, deadline)
            return self.is_open and number in self._mapped
        finally:
            self._lock.release()

    def withdraw_gone(self, allocator: Allocator, *, deadline: float | None = None) -> None:
        """Has the server unmap the segments that `allocator` has released; cheap if its segments have not changed."""
        if allocator.segments is self._kept or not acquire(self._lock, deadline):
            return
        try:
            if not self._settle(deadline):
                return
            # Under the lock: these include any segment that another thread has handed over meanwhile.
            self._kept = allocator.segments
            withdrawn = self._mapped - {segment.number for segment in self._kept}
            if withdrawn:
                question = _Question(None, withdrawn, time.monotonic() + _ANSWER_TIMEOUT_S)
                self._ask(question, pb.SharedMemoryHandover(withdrawn=sorted(withdrawn)), (), deadline)
        finally:
            self._lock.release()

    def wait_ended(self, timeout_s: float) -> bool:
        """Waits until the server has closed its side; returns whether it has within `timeout_s`.

        The server closes it once it no longer writes to the memory. After `close` the result no longer changes,
        because this side can no longer observe the server.
        """
        if not self._has_ended and not self._is_closed:
            ended = wait_closed(self._connection, timeout_s=timeout_s)
            self._has_ended = ended and not self._is_closed
        return self._has_ended

    def disable(self) -> None:
        """Hands no further segments over, and no longer relies on those that were."""
        self.is_open = False

    def close(self) -> None:
        """Ends the connection; the server unmaps all segments. A second call does nothing."""
        self.is_open = False
        self._is_closed = True
        self._connection.close()

    def _hand_over(self, segment: Segment, deadline: float | None) -> None:
        if segment.size_bytes > self._free_bytes:  # the server maps no further memory for this stream
            self._refused |= {segment.number}
            return
        question = _Question(segment, frozenset(), time.monotonic() + _ANSWER_TIMEOUT_S)
        packet = pb.SharedMemoryHandover(segments=[segment.number])
        self._ask(question, packet, [segment.descriptor], deadline)

    def _ask(
        self,
        question: _Question,
        packet: pb.SharedMemoryHandover,
        descriptors: Sequence[int],
        deadline: float | None,
    ) -> None:
        self._question = question
        try:
            _send(self._connection, packet, descriptors)
        except HandoverFailed:
            self._end_question(is_done=False)
            self.disable()
        else:
            self._settle(deadline)

    def _settle(self, deadline: float | None) -> bool:
        """Receives the outstanding answer, if any; returns whether none is outstanding."""
        question = self._question
        if question is None:
            return True
        until_s = question.give_up_s if deadline is None else min(question.give_up_s, deadline)
        try:
            _receive(self._connection, timeout_s=max(_LEAST_WAIT_S, until_s - time.monotonic()))
        except _Unanswered as unanswered:
            if isinstance(unanswered.__cause__, TimeoutError) and time.monotonic() < question.give_up_s:
                return False
            self.disable()
            self._end_question(is_done=False)
        except HandoverFailed:
            self._end_question(is_done=False)
        else:
            self._end_question(is_done=True)
        return True

    def _end_question(self, *, is_done: bool) -> None:
        assert self._question is not None
        segment, withdrawn = self._question.segment, self._question.withdrawn
        self._question = None
        if segment is not None and is_done:
            self._mapped |= {segment.number}
            self._sizes_bytes[segment.number] = segment.size_bytes
            self._free_bytes -= segment.size_bytes
            self._kept = ()  # the allocator may have released it before the answer came
        elif segment is not None:
            self._refused |= {segment.number}
        elif is_done:
            self._mapped -= withdrawn
            self._free_bytes += sum(self._sizes_bytes.pop(number) for number in withdrawn)


class _Unanswered(HandoverFailed):
    pass


def connect_for_requests(opened: pb.StreamOpened, *, address: str = "") -> socket.socket | None:
    """Returns a connection for requests beside the stream, or None if the server accepts none there."""
    offer = opened.shared_memory
    if offer.max_packet_bytes <= 0:
        return None
    connection = None
    try:
        connection = _connect(offer, address)
        packet = pb.SharedMemoryHandover(instance_id=opened.instance_id, secret=offer.secret, requests=True)
        _ask(connection, packet)
    except (OSError, HandoverFailed) as error:
        raise_foreign(error)
        if connection is not None:
            connection.close()
        return None
    connection.settimeout(None)
    bound_receives(connection)
    return connection


def _connect(offer: pb.SharedMemoryOffer, address: str) -> socket.socket:
    places = _places(offer, address)
    if not places:
        raise HandoverFailed("the server offers no shared memory")
    for place in places:
        try:
            return connect(place, timeout_s=_ANSWER_TIMEOUT_S)
        except OSError as error:
            raise_foreign(error)
    raise HandoverFailed(f"no process listens at {offer.socket_name}")


def _places(offer: pb.SharedMemoryOffer, address: str) -> list[str]:
    """Returns the abstract address, and the path of the socket file beside the unix address that the client uses."""
    places = [f"\0{offer.socket_name}"] if re.fullmatch(_SOCKET_NAME, offer.socket_name) else []
    name = os.path.basename(offer.socket_path)
    if address.startswith(_UNIX) and name.endswith(MEMORY_SUFFIX):
        places.append(os.path.join(os.path.dirname(address.removeprefix(_UNIX)), name))
    return places


def _ask(connection: socket.socket, packet: pb.SharedMemoryHandover) -> None:
    _send(connection, packet, ())
    _receive(connection, timeout_s=_ANSWER_TIMEOUT_S)


def _send(connection: socket.socket, packet: pb.SharedMemoryHandover, descriptors: Sequence[int]) -> None:
    try:
        send_packet(connection, packet.SerializeToString(), list(descriptors))
    except OSError as cause:
        raise_foreign(cause)
        raise _Unanswered("the server accepts no packet") from cause


def _receive(connection: socket.socket, *, timeout_s: float) -> None:
    """Receives the answer to one packet; raises HandoverFailed if the server refuses."""
    try:
        connection.settimeout(timeout_s)
        answer = receive_packet(connection)
        status = pb.SharedMemoryHandoverResult.FromString(answer).status
    except (OSError, DecodeError) as cause:
        raise_foreign(cause)
        raise _Unanswered("the server does not answer") from cause
    if not answer:
        raise _Unanswered("the server closed the connection")
    if status.code:
        raise HandoverFailed(status.message)
