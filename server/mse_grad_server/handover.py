"""One connection over which a client hands over memory: packets of `SharedMemoryHandover`, each answered.

Or, where its first packet says so, one that is handed on to carry requests.
"""

from __future__ import annotations

import array
import os
import socket
from collections.abc import Callable, Sequence

from google.protobuf.message import DecodeError

from mse_grad.reasons import ContractError
from mse_grad.v1 import mse_grad_pb2 as pb
from mse_grad_server.errors import ServerError, SharedMemoryUnusable, to_status
from mse_grad_server.lease import Lease
from mse_grad_server.packets import Packets

__all__ = ["Handover"]

# As many descriptors as a packet may bring, which the kernel would allow 253 of.
_MOST_DESCRIPTORS = 16
_MOST_PACKET_BYTES = 4096
_DESCRIPTOR_BYTES = array.array("i").itemsize


class Handover:
    """Belongs to the event loop; owns the socket, which does not block.

    Attributes:
        lease: The memory of the stream whose secret was shown; None before that.
    """

    def __init__(
        self,
        connection: socket.socket,
        *,
        lease_of: Callable[[pb.SharedMemoryHandover], Lease],
        on_refused: Callable[[BaseException], None],
        on_end: Callable[[Handover], None],
    ) -> None:
        """Takes an accepted connection.

        Args:
            connection: It.
            lease_of: Finds the lease whose secret the first packet shows; raises SharedMemoryDenied.
            on_refused: Hears why a packet was refused.
            on_end: Hears, perhaps twice, that no packet is to be received any more.
        """
        self.lease: Lease | None = None
        self._connection = connection
        self._lease_of = lease_of
        self._on_refused = on_refused
        self._on_end = on_end
        self._is_closed = False

    def fileno(self) -> int:
        """Returns the descriptor of the connection, for who waits for it."""
        return self._connection.fileno()

    def receive(self) -> None:
        """Takes the packet that has come, or the end of the connection."""
        try:
            packet, descriptors, is_whole = self._read()
        except BlockingIOError:
            return
        except OSError:  # a connection that was reset has ended
            self._end()
            return
        try:
            if not packet:
                self._end()
                return
            if not is_whole:
                raise SharedMemoryUnusable(
                    f"a packet has at most {_MOST_PACKET_BYTES} bytes and {_MOST_DESCRIPTORS} descriptors, not more"
                )
            handover = _parsed(packet)
            if handover.requests and self.lease is None:
                self._hand_on(handover, descriptors)
                return
            self._take(handover, descriptors)
            self._answer(pb.SharedMemoryHandoverResult())
        except (ServerError, ContractError) as error:
            if self.lease is None:
                self.refuse(error)
            else:  # something may be computed in what was handed over before, of which the end of this would tell
                self._on_refused(error)
                self._answer(_refusal(error))
        finally:
            for descriptor in descriptors:
                os.close(descriptor)

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

    def _hand_on(self, handover: pb.SharedMemoryHandover, descriptors: Sequence[int]) -> None:
        if descriptors:
            raise SharedMemoryUnusable("a connection for requests takes no segments; hand them over on another one")
        lease = self._lease_of(handover)
        packets = Packets(self._connection)
        lease.attach_requests(packets)
        # The socket is theirs from here on. Where the client has gone already, they see it when they read.
        self._is_closed = True
        self._on_end(self)
        packets.write_now(_packet_of(pb.SharedMemoryHandoverResult()))
        lease.serve(packets)

    def _take(self, handover: pb.SharedMemoryHandover, descriptors: Sequence[int]) -> None:
        if handover.requests:
            raise SharedMemoryUnusable("a connection for memory carries no requests; open another one for them")
        if self.lease is None:
            lease = self._lease_of(handover)
            lease.attach(self)
            self.lease = lease
        segments = self.lease.segments
        segments.withdraw(handover.withdrawn)
        segments.add(handover.segments, descriptors)

    def _read(self) -> tuple[bytes, list[int], bool]:
        ancillary_bytes = socket.CMSG_SPACE(_MOST_DESCRIPTORS * _DESCRIPTOR_BYTES)
        packet, ancillary, flags, _ = self._connection.recvmsg(
            _MOST_PACKET_BYTES, ancillary_bytes, socket.MSG_CMSG_CLOEXEC
        )
        descriptors = array.array("i")
        for level, kind, data in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                descriptors.frombytes(data[: len(data) - len(data) % _DESCRIPTOR_BYTES])
        is_whole = not flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC)
        return packet, list(descriptors), is_whole

    def _answer(self, result: pb.SharedMemoryHandoverResult) -> None:
        try:
            self._connection.send(_packet_of(result), socket.MSG_NOSIGNAL)
        except OSError:  # gone, or it does not read its answers: either way the connection is of no use
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
        raise SharedMemoryUnusable("the packet is not a mse_grad.v1.SharedMemoryHandover") from cause


def _packet_of(result: pb.SharedMemoryHandoverResult) -> bytes:
    # The empty result would be an empty packet, which reads as the end.
    result.status.SetInParent()
    return result.SerializeToString()


def _refusal(error: ServerError | ContractError) -> pb.SharedMemoryHandoverResult:
    return pb.SharedMemoryHandoverResult(status=to_status(error, request_id=""))
