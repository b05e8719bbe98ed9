"""Hands the segments of a region over to the worker that serves one stream."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Sequence

from google.protobuf.message import DecodeError

from mse_grad.v1 import mse_grad_pb2 as pb
from mse_grad_client.region import Region
from mse_grad_client.segment import Segment, connect, exchange_packets, has_ended

__all__ = ["Handover", "HandoverFailed", "connect_for_requests"]

# Anything else that a server names is not its own socket, and gets no connection.
_SOCKET_NAME = re.compile(r"mse-grad-[0-9A-Za-z-]{1,90}")
# The server answers within its event loop, which is never held up for long.
_ANSWER_TIMEOUT_S = 2.0


class HandoverFailed(Exception):
    """The server cannot, or does not want to, map a segment; its gradients go over the stream."""


class Handover:
    """One connection, for as long as its stream. Any number of threads.

    What was refused once is not tried again here.

    Attributes:
        is_open: Whether the server maps what is handed over, as far as is known.
    """

    def __init__(self, opened: pb.StreamOpened) -> None:
        """Connects and shows the secret; raises HandoverFailed."""
        offer = opened.shared_memory
        if not _SOCKET_NAME.fullmatch(offer.socket_name):
            raise HandoverFailed("the server offers no shared memory")
        self._lock = threading.Lock()
        self._mapped: frozenset[int] = frozenset()
        self._refused: frozenset[int] = frozenset()
        self._room_bytes = offer.max_mapped_bytes
        self._sizes_bytes: dict[int, int] = {}
        self._kept: tuple[Segment, ...] = ()
        try:
            self._connection = connect(offer.socket_name, timeout_s=_ANSWER_TIMEOUT_S)
        except OSError as cause:
            raise HandoverFailed(f"nobody listens at {offer.socket_name}") from cause
        self.is_open = True
        try:
            self._ask(pb.SharedMemoryHandover(instance_id=opened.instance_id, secret=offer.secret), ())
        except HandoverFailed:
            self.close()
            raise

    def has(self, segment: Segment) -> bool:
        """Returns whether the server has the segment mapped, after handing it over where that was not tried."""
        number = segment.number
        if number in self._mapped:
            return self.is_open
        if number in self._refused:
            return False
        with self._lock:
            if number not in self._mapped and number not in self._refused:
                self._hand_over(segment)
            return self.is_open and number in self._mapped

    def withdraw_gone(self, region: Region) -> None:
        """Has the server unmap the segments that `region` has given back; cheap where it has the same as last time."""
        if region.segments is self._kept:
            return
        with self._lock:
            # Within the lock: what another thread has handed over meanwhile is among them then.
            self._kept = region.segments
            withdrawn = self._mapped - {segment.number for segment in self._kept}
            if not withdrawn:
                return
            try:
                self._ask(pb.SharedMemoryHandover(withdrawn=sorted(withdrawn)), ())
            except HandoverFailed:
                return
            self._mapped -= withdrawn
            self._room_bytes += sum(self._sizes_bytes.pop(number) for number in withdrawn)

    def wait_ended(self, timeout_s: float) -> bool:
        """Waits until the server has closed its side, as it does once nothing writes to the memory any more."""
        return has_ended(self._connection, timeout_s=timeout_s)

    def give_up(self) -> None:
        """Hands nothing over any more, nor relies on what was."""
        self.is_open = False

    def close(self) -> None:
        """Ends the connection; the server unmaps everything. A second call does nothing."""
        self.is_open = False
        self._connection.close()

    def _hand_over(self, segment: Segment) -> None:
        try:
            if segment.size_bytes > self._room_bytes:
                raise HandoverFailed("the server maps no more for this stream")
            self._ask(pb.SharedMemoryHandover(segments=[segment.number]), [segment.descriptor])
        except (HandoverFailed, OSError):
            self._refused |= {segment.number}
            return
        self._mapped |= {segment.number}
        self._sizes_bytes[segment.number] = segment.size_bytes
        self._room_bytes -= segment.size_bytes

    def _ask(self, packet: pb.SharedMemoryHandover, descriptors: Sequence[int]) -> None:
        try:
            _ask(self._connection, packet, descriptors)
        except _Unanswered:
            self.give_up()
            raise


class _Unanswered(HandoverFailed):
    pass


def connect_for_requests(opened: pb.StreamOpened) -> socket.socket | None:
    """Returns a connection over which requests may go beside the stream, or None where the server takes none."""
    offer = opened.shared_memory
    if not offer.max_packet_bytes or not _SOCKET_NAME.fullmatch(offer.socket_name):
        return None
    connection = None
    try:
        connection = connect(offer.socket_name, timeout_s=_ANSWER_TIMEOUT_S)
        packet = pb.SharedMemoryHandover(instance_id=opened.instance_id, secret=offer.secret, requests=True)
        _ask(connection, packet, ())
    except (OSError, HandoverFailed):
        if connection is not None:
            connection.close()
        return None
    connection.settimeout(None)
    return connection


def _ask(connection: socket.socket, packet: pb.SharedMemoryHandover, descriptors: Sequence[int]) -> None:
    try:
        answer = exchange_packets(connection, packet.SerializeToString(), list(descriptors))
        status = pb.SharedMemoryHandoverResult.FromString(answer).status
    except (OSError, DecodeError) as cause:
        raise _Unanswered("the server does not answer") from cause
    if not answer:
        raise _Unanswered("the server closed the connection")
    if status.code:
        raise HandoverFailed(status.message)
