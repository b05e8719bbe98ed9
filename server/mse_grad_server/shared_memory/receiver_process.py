"""Helper process that receives descriptors from clients, and passes on to the server only those of memory.

To close a file of FUSE or of a network may take forever, even in a process that is killed. So no descriptor enters the
server before this process knows that it is memory. It imports only the standard library, to start within milliseconds.
"""

from __future__ import annotations

import array
import fcntl
import os
import socket
import sys

_F_GET_SEALS = 1034  # linux/fcntl.h
MOST_DESCRIPTORS = 16
MOST_PACKET_BYTES = 4096
IS_NO_MEMORY, IS_WHOLE, IS_TOO_LARGE = b"\0", b"\1", b"\2"
_ROOM_BYTES = socket.CMSG_SPACE(MOST_DESCRIPTORS * array.array("i").itemsize)


def receive(connection: socket.socket, most_bytes: int) -> tuple[bytes, list[int], bool]:
    """Returns the next packet, its descriptors, and whether both are complete; raises OSError."""
    packet, ancillary, flags, _ = connection.recvmsg(most_bytes, _ROOM_BYTES, socket.MSG_CMSG_CLOEXEC)
    descriptors = array.array("i")
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            descriptors.frombytes(data[: len(data) - len(data) % descriptors.itemsize])
    return packet, list(descriptors), not flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC)


def main(server: socket.socket) -> None:
    """Receives a packet from each connection that `server` sends, and answers with the packet and its descriptors.

    The first byte is the kind of the answer: IS_WHOLE, or IS_NO_MEMORY or IS_TOO_LARGE without descriptors.
    """
    while connections := receive(server, 1)[1]:
        with socket.socket(fileno=connections[0]) as connection:
            try:
                packet, descriptors, is_whole = receive(connection, MOST_PACKET_BYTES)
            except OSError:  # the client is gone
                packet, descriptors, is_whole = b"", [], True
        if not all(map(_is_memory, descriptors)):
            server.send(IS_NO_MEMORY)
            # Close the socket first: at its exit the process closes the descriptors, which may take forever.
            server.close()
            os._exit(0)
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))]
        server.sendmsg([(IS_WHOLE if is_whole else IS_TOO_LARGE) + packet], rights if is_whole else [])
        for descriptor in descriptors:
            os.close(descriptor)


def _is_memory(descriptor: int) -> bool:
    # The kernel answers this without the file system, and only memory has seals.
    try:
        return fcntl.fcntl(descriptor, _F_GET_SEALS) >= 0
    except OSError:
        return False


if __name__ == "__main__":
    main(socket.socket(fileno=int(sys.argv[1])))
