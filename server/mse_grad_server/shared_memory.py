"""The socket over which clients on the same host hand over memory. Linux alone.

It is in the abstract namespace: it has no file, and is gone with the process. Whoever connects must be an allowed user
and show the secret of an open stream. What is handed over is mapped while both the connection and the stream live.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
import struct
import sys
from collections.abc import Callable
from functools import partial

from structlog.typing import FilteringBoundLogger

from mse_grad.v1 import mse_grad_pb2 as pb
from mse_grad_server.clock import Clock, Timer
from mse_grad_server.config import Settings
from mse_grad_server.errors import SharedMemoryDenied, SharedMemoryFull, reason_of
from mse_grad_server.handover import Handover
from mse_grad_server.lease import Lease
from mse_grad_server.metrics import Metrics
from mse_grad_server.packets import MOST_PACKET_BYTES
from mse_grad_server.segments import Budget, Segments

__all__ = ["SharedMemory", "user_of_peer"]

_BACKLOG = 64
# Connections that have not shown a secret: how many there may be, and for how long.
_MOST_STRANGERS = 64
_GREETING_S = 5.0
_CREDENTIALS = struct.Struct("3i")  # struct ucred: pid, uid, gid


def user_of_peer(connection: socket.socket) -> int:
    """Returns the number of the user who connected, by the word of the kernel: SO_PEERCRED of unix(7)."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return int(_CREDENTIALS.unpack(credentials)[1])


class SharedMemory:
    """Accepts connections and knows the leases of all open streams. Belongs to the event loop."""

    def __init__(
        self,
        settings: Settings,
        metrics: Metrics,
        clock: Clock,
        log: FilteringBoundLogger,
        *,
        instance_id: str,
        user_of: Callable[[socket.socket], int] = user_of_peer,
    ) -> None:
        """Takes what it works with.

        Args:
            settings: What the server was told.
            metrics: Where mappings are counted.
            clock: The time.
            log: Where refusals go.
            instance_id: Names this run of the server.
            user_of: Returns the user at the other end of a connection.
        """
        self._settings = settings
        self._metrics = metrics
        self._clock = clock
        self._log = log
        self._instance_id = instance_id
        self._user_of = user_of
        self._users = settings.shared_memory_uids
        self._socket_name = f"mse-grad-{instance_id}"
        self._budget = Budget(settings, metrics)
        self._leases: dict[bytes, Lease] = {}
        self._handovers: dict[Handover, Timer] = {}
        self._listener: socket.socket | None = None

    def open(self) -> None:
        """Listens; where that cannot be, or is not wanted, all gradients come in messages."""
        if not self._settings.shared_memory or sys.platform != "linux":
            return
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
        try:
            listener.bind(f"\0{self._socket_name}")
            listener.listen(_BACKLOG)
        except OSError as error:
            listener.close()
            self._log.warning("no_shared_memory", message=f"its socket cannot be bound: {error.strerror}")
            return
        self._listener = listener
        asyncio.get_running_loop().add_reader(listener, self._accept)

    def lease(self) -> Lease | None:
        """Returns what a new stream offers its client, to be closed with the stream; None where nothing is offered."""
        if self._listener is None:
            return None
        offer = pb.SharedMemoryOffer(
            socket_name=self._socket_name,
            secret=secrets.token_bytes(32),
            max_mapped_bytes=min(self._settings.shared_memory_stream_bytes, self._settings.shared_memory_bytes),
            max_packet_bytes=MOST_PACKET_BYTES,
        )
        lease = Lease(offer, Segments(self._settings, self._budget), on_close=self._forget)
        self._leases[offer.secret] = lease
        return lease

    def close(self) -> None:
        """Ends the socket and every connection."""
        if self._listener is not None:
            asyncio.get_running_loop().remove_reader(self._listener)
            self._listener.close()
            self._listener = None
        for handover in list(self._handovers):
            handover.close()

    def _accept(self) -> None:
        assert self._listener is not None
        try:
            connection, _ = self._listener.accept()
        except OSError:  # it was gone again, or no descriptor is free: the client gives up and sends messages
            return
        connection.setblocking(False)
        handover = Handover(connection, lease_of=self._lease_of, on_refused=self._refused, on_end=self._handover_ends)
        user = self._user_of(connection)
        if user not in self._users:
            handover.refuse(
                SharedMemoryDenied(f"user {user} may not hand over memory here; see the setting shared_memory_users")
            )
            return
        if sum(other.lease is None for other in self._handovers) >= _MOST_STRANGERS:
            handover.refuse(SharedMemoryFull("too many connections have not shown a secret yet"))
            return
        asyncio.get_running_loop().add_reader(handover, handover.receive)
        greeting_ends_s = self._clock.now() + _GREETING_S
        self._handovers[handover] = self._clock.call_at(greeting_ends_s, partial(self._end_stranger, handover))

    def _lease_of(self, packet: pb.SharedMemoryHandover) -> Lease:
        lease = self._leases.get(packet.secret)
        if lease is None or packet.instance_id != self._instance_id:
            raise SharedMemoryDenied("the packet does not show instance_id and secret of an open stream of this server")
        return lease

    def _end_stranger(self, handover: Handover) -> None:
        if handover.lease is None:
            handover.close()

    def _handover_ends(self, handover: Handover) -> None:
        timer = self._handovers.pop(handover, None)
        if timer is not None:
            timer.cancel()
            asyncio.get_running_loop().remove_reader(handover)

    def _refused(self, error: BaseException) -> None:
        reason = reason_of(error).value
        self._metrics.shared_memory_refused(reason)
        self._log.info("shared_memory_refused", reason=reason, message=str(error))

    def _forget(self, lease: Lease) -> None:
        self._leases.pop(lease.offer.secret, None)
