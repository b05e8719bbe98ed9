"""Unix sockets on which clients of the same host hand over memory. Linux only.

A client must be an allowed user and show the secret of an open stream. Its memory stays mapped while the connection
and the stream both live.
"""

from __future__ import annotations

import asyncio
import resource
import secrets
import socket
import struct
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from structlog.typing import FilteringBoundLogger

from mse_grad.reasons import Reason
from mse_grad.v1 import mse_grad_pb2 as pb
from mse_grad_server.direct.acceptor import Acceptor
from mse_grad_server.direct.packets import MOST_PACKET_BYTES
from mse_grad_server.errors import SharedMemoryDenied, SharedMemoryFull, reason_of
from mse_grad_server.metrics.registry import Metrics
from mse_grad_server.process.clock import Clock, Timer
from mse_grad_server.process.socket_file import SocketAccess
from mse_grad_server.settings.address import Address
from mse_grad_server.settings.model import Settings
from mse_grad_server.shared_memory.handover import Handover
from mse_grad_server.shared_memory.lease import Lease, ServePackets
from mse_grad_server.shared_memory.listening import MemoryListeners
from mse_grad_server.shared_memory.receiver import Receiver
from mse_grad_server.shared_memory.segments import Budget, Segments

__all__ = ["SharedMemory", "SharedMemoryLimits", "user_of_peer"]

# Most connections that have not shown a secret, and the longest time that one may take to show it.
_MOST_STRANGERS = 64
_GREETING_S = 5.0
_SO_PEERCRED = getattr(socket, "SO_PEERCRED", 17)  # asm-generic/socket.h
_CREDENTIALS = struct.Struct("3i")  # struct ucred: pid, uid, gid
# Descriptors reserved for the server itself. Clients that share memory may have half of the others; the other half is
# for gRPC's connections. A lease takes two connections and a descriptor for each segment, of which most clients have
# two.
_OTHER_DESCRIPTORS = 64
_DESCRIPTORS_PER_LEASE = 4


def user_of_peer(connection: socket.socket) -> int:
    """Returns the uid at the other end of `connection`, as the kernel reports it: SO_PEERCRED of unix(7)."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, _SO_PEERCRED, _CREDENTIALS.size)
    return int(_CREDENTIALS.unpack(credentials)[1])


@dataclass(frozen=True)
class SharedMemoryLimits:
    """Limits of shared memory.

    Attributes:
        is_enabled: Whether clients may share memory at all.
        uids: Users who may hand over memory.
        total_bytes: Most bytes mapped at a time, over all streams.
        stream_bytes: Most bytes mapped at a time for one stream.
    """

    is_enabled: bool
    uids: frozenset[int]
    total_bytes: int
    stream_bytes: int

    @classmethod
    def of(cls, settings: Settings) -> SharedMemoryLimits:
        """Returns the limits in `settings`."""
        return cls(
            is_enabled=settings.shared_memory,
            uids=settings.shared_memory_uids,
            total_bytes=int(settings.shared_memory_bytes),
            stream_bytes=int(settings.shared_memory_stream_bytes),
        )


class SharedMemory:
    """Listener for connections that hand over memory, and the leases of all open streams; belongs to the event loop.

    Args:
        limits: Limits of shared memory.
        metrics: Metrics of mappings and refusals.
        clock: Clock of the time-outs.
        log: Log of refusals.
        instance_id: Id of this run of the server.
        beside: Path of the server's own unix socket, or "".
        access: Users who may connect to the socket file beside it.
        user_of: Returns the uid at the other end of a connection.
    """

    def __init__(
        self,
        limits: SharedMemoryLimits,
        metrics: Metrics,
        clock: Clock,
        log: FilteringBoundLogger,
        *,
        instance_id: str,
        beside: str = "",
        access: SocketAccess | None = None,
        user_of: Callable[[socket.socket], int] = user_of_peer,
    ) -> None:
        self._limits = limits
        self._metrics = metrics
        self._clock = clock
        self._log = log
        self._instance_id = instance_id
        self._user_of = user_of
        self._listeners = MemoryListeners(
            f"mse-grad-{instance_id}",
            beside=beside,
            access=access,
            on_no_file=lambda why: log.warning("no_shared_memory_file", message=why),
        )
        self._budget = Budget(metrics, most_bytes=limits.total_bytes)
        self._leases: dict[bytes, Lease] = {}
        self._handovers: dict[Handover, Timer] = {}
        self._receiver = Receiver(clock)
        self._acceptor = Acceptor(
            clock,
            on_connection=self._on_connection,
            on_exhausted=lambda: metrics.shared_memory_refused(Reason.SHARED_MEMORY_FULL.value),
            on_paused=lambda error: log.error(
                "shared_memory_paused", message=f"a client could not be accepted: {error.strerror}"
            ),
        )
        self._most_leases = 0

    @classmethod
    def of(
        cls, settings: Settings, metrics: Metrics, clock: Clock, log: FilteringBoundLogger, *, instance_id: str
    ) -> SharedMemory:
        """Returns the shared memory of a server with these settings; see the class for the other arguments."""
        return cls(
            SharedMemoryLimits.of(settings),
            metrics,
            clock,
            log,
            instance_id=instance_id,
            beside=Address.parse(settings.listen).path,
            access=settings.socket_access,
        )

    def open(self) -> None:
        """Listens. If it cannot, or shared memory is disabled, the server serves streams without it."""
        if not self._limits.is_enabled or sys.platform != "linux":
            return
        try:
            self._listeners.open()
            self._acceptor.open(self._listeners.sockets)
        except OSError as error:
            self._listeners.close()
            self._log.warning("no_shared_memory", message=f"its socket cannot be had: {error.strerror}")
            return
        descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._most_leases = max(0, descriptors - _OTHER_DESCRIPTORS) // 2 // _DESCRIPTORS_PER_LEASE

    def lease(self, serve_packets: ServePackets) -> Lease | None:
        """Returns the lease that a new stream offers its client, or None if the stream gets no shared memory.

        The stream closes the lease when it ends.

        Args:
            serve_packets: Serves requests on a second connection of the client.
        """
        if not self._acceptor.is_accepting:
            return None
        if len(self._leases) >= self._most_leases:
            self._metrics.shared_memory_refused(Reason.SHARED_MEMORY_FULL.value)
            return None
        offer = pb.SharedMemoryOffer(
            socket_name=self._listeners.name,
            socket_path=self._listeners.path,
            secret=secrets.token_bytes(32),
            max_mapped_bytes=min(self._limits.stream_bytes, self._limits.total_bytes),
            max_packet_bytes=MOST_PACKET_BYTES,
        )
        segments = Segments(self._budget, most_bytes=self._limits.stream_bytes)
        lease = Lease(offer, segments, serve_packets=serve_packets, on_close=self._forget)
        self._leases[offer.secret] = lease
        return lease

    def close(self) -> None:
        """Closes the socket and every connection."""
        self._acceptor.close()
        self._listeners.close()
        for handover in list(self._handovers):
            handover.close()
        self._receiver.close()

    def _on_connection(self, connection: socket.socket) -> None:
        handover = Handover(
            connection,
            lease_of=self._lease_of,
            on_refused=self._on_refused,
            on_end=self._on_handover_end,
            receiver=self._receiver,
        )
        try:
            user = self._user_of(connection)
        except OSError as error:
            handover.refuse(SharedMemoryDenied(f"the system does not name the connection's user: {error.strerror}"))
            return
        if user not in self._limits.uids:
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

    def _on_handover_end(self, handover: Handover) -> None:
        timer = self._handovers.pop(handover, None)
        if timer is not None:
            timer.cancel()
            asyncio.get_running_loop().remove_reader(handover)

    def _on_refused(self, error: BaseException) -> None:
        reason = reason_of(error).value
        self._metrics.shared_memory_refused(reason)
        self._log.info("shared_memory_refused", reason=reason, message=str(error))

    def _forget(self, lease: Lease) -> None:
        self._leases.pop(lease.offer.secret, None)
