"""Handover of memory: a connection with packets of `SharedMemoryHandover`, each of which is answered.

If the first packet asks for it, the connection carries requests instead.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Sequence

from google.protobuf.message import DecodeError

from mse_grad.reasons import ContractError
from mse_grad.v1 import mse_grad_pb2 as pb
from mse_grad_server.direct.packet_socket import PacketSocket
from mse_grad_server.errors import ServerError, SharedMemoryFull, SharedMemoryUnusable, to_status
from mse_grad_server.shared_memory.lease import Lease
from mse_grad_server.shared_memory.receiver import Received, Receiver
from mse_grad_server.shared_memory.receiver_process import MOST_PACKET_BYTES

__all__ = ["Handover"]


class Handover:
    """Connection of one client; belongs to the event loop.

    Args:
        connection: Accepted, non-blocking SOCK_SEQPACKET socket; owned by this object.
        lease_of: Returns the lease whose secret the first packet shows; raises SharedMemoryDenied.
        on_refused: Called with the reason of each refusal.
        on_end: Called when the connection stops receiving; may be called more than once.
        receiver: Receives packets that carry descriptors.

    Attributes:
        lease: Lease of the stream whose secret was shown; None before that.
    """

    def __init__(
        self,
        connection: socket.socket,
        *,
        lease_of: Callable[[pb.SharedMemoryHandover], Lease],
        on_refused: Callable[[BaseException], None],
        on_end: Callable[[Handover], None],
        receiver: Receiver,
    ) -> None:
        self.lease: Lease | None = None
        self._connection = PacketSocket(connection, discard=receiver.discard)
        self._lease_of = lease_of
        self._on_refused = on_refused
        self._on_end = on_end
        self._receiver = receiver
        self._is_closed = False

    def fileno(self) -> int:
        """Returns the descriptor of the connection, for the event loop."""
        return self._connection.fileno()

    def receive(self) -> None:
        """Handles the packet that has arrived, or the end of the connection."""
        try:
            if self._connection.next_carries_descriptors():
                asyncio.get_running_loop().remove_reader(self._connection)
                self._receiver.receive(self._connection.connection, self._on_received)
                return
            packet = self._connection.receive(MOST_PACKET_BYTES + 1)
        except BlockingIOError:
            return
        except OSError:  # a connection that was reset has ended
            self._end()
            return
        if len(packet) > MOST_PACKET_BYTES:
            self._refuse_packet(SharedMemoryUnusable(f"a packet has at most {MOST_PACKET_BYTES} bytes, not more"))
            return
        self._handle(packet, [])

    def refuse(self, error: ServerError | ContractError) -> None:
        """Answers with `error` and closes the connection."""
        self._on_refused(error)
        self._answer(_refusal(error))
        self._end()

    def close(self) -> None:
        """Closes the connection; a second call does nothing."""
        if not self._is_closed:
            self._is_closed = True
            self._on_end(self)
            self._connection.close()

    def _on_received(self, received: Received | ServerError) -> None:
        if isinstance(received, ServerError):
            if not self._is_closed:
                self._add_reader()
                self._refuse_packet(received)
                if isinstance(received, SharedMemoryFull):
                    self._end()
            return
        try:
            if not self._is_closed:
                self._add_reader()
                self._handle(received.packet, received.descriptors)
        finally:
            for descriptor in received.descriptors:
                os.close(descriptor)

    def _add_reader(self) -> None:
        asyncio.get_running_loop().add_reader(self._connection, self.receive)

    def _handle(self, packet: bytes, descriptors: Sequence[int]) -> None:
        if not packet:
            self._end()
            return
        try:
            handover = _parsed(packet)
            if handover.requests and self.lease is None:
                self._carry_requests(handover, descriptors)
                return
            self._take_segments(handover, descriptors)
            self._answer(pb.SharedMemoryHandoverResult())
        except (ServerError, ContractError) as error:
            self._refuse_packet(error)

    def _refuse_packet(self, error: ServerError | ContractError) -> None:
        if self.lease is None:
            self.refuse(error)
        else:
            # Closing the connection would tell the client that its memory is unused, but a computation may still use
            # it.
            self._on_refused(error)
            self._answer(_refusal(error))

    def _carry_requests(self, handover: pb.SharedMemoryHandover, descriptors: Sequence[int]) -> None:
        if descriptors:
            raise SharedMemoryUnusable("a connection for requests takes no segments; hand them over on another one")
        lease = self._lease_of(handover)
        self._connection.refuse_descriptors()
        packets = lease.open_packets(self._connection)
        # The packets own the socket from here on. If the client is gone already, their next read says so.
        self._is_closed = True
        self._on_end(self)
        packets.write_now(_packet_of(pb.SharedMemoryHandoverResult()))

    def _take_segments(self, handover: pb.SharedMemoryHandover, descriptors: Sequence[int]) -> None:
        if handover.requests:
            raise SharedMemoryUnusable("a connection for memory carries no requests; open another one for them")
        if self.lease is None:
            lease = self._lease_of(handover)
            lease.attach_memory(self.close)
            self.lease = lease
        segments = self.lease.segments
        segments.withdraw(handover.withdrawn)
        segments.add(handover.segments, descriptors)

    def _answer(self, result: pb.SharedMemoryHandoverResult) -> None:
        try:
            self._connection.send(_packet_of(result))
        except OSError:  # the client is gone, or does not read its answers: either way the connection must be closed
            self._end()

    def _end(self) -> None:
        self._on_end(self)
        if self.lease is None:
            self.close()
        else:
            self.lease.hang_up()


def _parsed(packet: bytes) -> pb.SharedMemoryHandover:
    try:
        return pb.SharedMemoryHandover.FromString(packet)
    except DecodeError as cause:
        raise SharedMemoryUnusable("the packet is not an mse_grad.v1.SharedMemoryHandover") from cause


def _packet_of(result: pb.SharedMemoryHandoverResult) -> bytes:
    # An empty result would be an empty packet, which a client reads as the end of the connection.
    result.status.SetInParent()
    return result.SerializeToString()


def _refusal(error: ServerError | ContractError) -> pb.SharedMemoryHandoverResult:
    return pb.SharedMemoryHandoverResult(status=to_status(error, request_id=""))
