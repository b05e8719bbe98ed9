"""Connection of a client on the same host, whose packets may carry descriptors."""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import suppress

from mse_grad.descriptors import refuse_descriptors

__all__ = ["PacketSocket"]

_SO_PASSCRED = getattr(socket, "SO_PASSCRED", 16)  # asm-generic/socket.h
_CREDENTIALS_BYTES = 12  # struct ucred: pid, uid, gid


class PacketSocket:
    """Socket of packets through which no descriptor enters this process, or is closed in it; see `descriptors`.

    It looks at each packet before it receives it, which takes about 1 us. Not thread-safe.

    Args:
        connection: Accepted, non-blocking SOCK_SEQPACKET socket; owned by this object.
        discard: Closes a socket that holds descriptors, in another process.
    """

    def __init__(self, connection: socket.socket, *, discard: Callable[[socket.socket], None]) -> None:
        self.connection = connection
        self._discard = discard
        self._may_carry_descriptors = True
        self._kernel_refuses = False

    def fileno(self) -> int:
        """Returns the descriptor of the connection, for the event loop."""
        return self.connection.fileno()

    def refuse_descriptors(self) -> None:
        """Has the kernel refuse further descriptors if it can, which spares the look at each packet."""
        self._kernel_refuses = refuse_descriptors(self.connection)

    def next_carries_descriptors(self) -> bool:
        """Returns whether the next packet carries descriptors, and then must not be received; raises OSError."""
        if not self._may_carry_descriptors:
            return False
        try:
            _, _, flags, _ = self.connection.recvmsg(0, 0, socket.MSG_PEEK)
        except BlockingIOError:
            # No packet is left that came before the refusal.
            self._may_carry_descriptors = not self._kernel_refuses
            raise
        return bool(flags & socket.MSG_CTRUNC)

    def receive(self, most_bytes: int) -> bytes:
        """Returns the next packet, or its first `most_bytes`, or b"" at the end; raises OSError."""
        return self.connection.recv(most_bytes)

    def receive_into(self, buffer: bytearray) -> int:
        """Receives the next packet, or as much as fits; returns its size, 0 at the end; raises OSError."""
        return self.connection.recv_into(buffer)

    def send(self, packet: bytes) -> None:
        """Sends a packet; raises OSError, and BlockingIOError if the kernel has no room for it now."""
        self.connection.send(packet, socket.MSG_NOSIGNAL)

    def close(self) -> None:
        """Closes the connection so that the client still reads every packet that was sent.

        If packets are unread when a socket is closed, the connection is reset. The client would read the reset before
        the packets, and lose the reason of the end.
        """
        if self._holds_descriptors():
            self._discard(self.connection)
        else:
            self.connection.close()

    def _holds_descriptors(self) -> bool:
        """Reads what is unread; returns whether a packet with descriptors is left."""
        with suppress(OSError):  # the client is gone
            self.connection.shutdown(socket.SHUT_RD)  # from here on no packet arrives
        # Each packet comes with the credentials of its sender now. The end of the connection, which looks like an empty
        # packet, has none.
        self.connection.setsockopt(socket.SOL_SOCKET, _SO_PASSCRED, 1)
        was_reset = False
        while True:
            try:
                room = socket.CMSG_SPACE(_CREDENTIALS_BYTES)
                _, ancillary, flags, _ = self.connection.recvmsg(0, room, socket.MSG_PEEK)
                if flags & socket.MSG_CTRUNC or not ancillary:
                    return bool(flags & socket.MSG_CTRUNC)
                self.connection.recv(1)  # no more is needed to drop it
            except OSError:  # a reset is reported once, before the packets
                if was_reset:
                    return False
                was_reset = True
