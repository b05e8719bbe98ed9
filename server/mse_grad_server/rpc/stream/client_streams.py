"""Streams of one client: a StreamGradients RPC, and the packets and direct connection beside it."""

from __future__ import annotations

import asyncio
import math
import os
import random
import socket
from collections.abc import Callable, Coroutine, Hashable
from typing import Any

from typing_extensions import override

from mse_grad.methods import STREAM_GRADIENTS
from mse_grad.v1 import mse_grad_pb2 as pb
from mse_grad_server.direct.frames import Frames
from mse_grad_server.direct.offers import Offer, ServeFrames
from mse_grad_server.direct.packet_socket import PacketSocket
from mse_grad_server.direct.packets import Packets
from mse_grad_server.direct.socket_stream import DirectConnection
from mse_grad_server.direct.wire import Wire
from mse_grad_server.engine.engine import Engine
from mse_grad_server.engine.shares import Share
from mse_grad_server.errors import ServerBusy, ServerError, StreamTooOld
from mse_grad_server.metrics.collectors import TransferCounter
from mse_grad_server.metrics.recorder import Recorder
from mse_grad_server.process.clock import Clock, Timer
from mse_grad_server.rpc.admission.call import Call
from mse_grad_server.rpc.admission.identity import is_address
from mse_grad_server.rpc.admission.places import Occupant
from mse_grad_server.rpc.stream.context import StreamContext
from mse_grad_server.rpc.stream.errors import go_away
from mse_grad_server.rpc.stream.limits import StreamLimits
from mse_grad_server.rpc.stream.stream import Stream
from mse_grad_server.shared_memory.lease import Lease, ServePackets
from mse_grad_server.shared_memory.socket import user_of_peer

__all__ = ["ClientStreams", "StreamFactory"]

# Time from GoAway until a stream that gives its place away is cut off.
_GIVE_WAY_S = 1.0
# Streams that were opened together, as after a restart, end up to this part of their age apart.
_AGE_JITTER = 0.1


class StreamFactory:
    """Factory of streams, and owner of their tasks.

    Args:
        engine: Admits and computes requests.
        recorder: Counts and logs requests.
        clock: Clock.
        limits: Limits of a stream.

    Attributes:
        engine: Admits and computes requests.
        recorder: Counts and logs requests.
        clock: Clock.
        limits: Limits of a stream.
    """

    def __init__(self, engine: Engine, recorder: Recorder, clock: Clock, limits: StreamLimits) -> None:
        self.recorder = recorder
        self.clock = clock
        self.engine = engine
        self.limits = limits
        self._tasks: set[asyncio.Task[None]] = set()

    def make(
        self,
        context: StreamContext,
        *,
        share: Share,
        recorder: Recorder,
        name: str,
        transferred: TransferCounter,
        lease: Lease | None,
        counts_as_open: bool = True,
    ) -> Stream:
        """Returns a stream over `context`; see `Stream` for the arguments."""
        return Stream(
            context,
            self.engine,
            share,
            recorder,
            self.clock,
            self.limits,
            name=name,
            transferred=transferred,
            lease=lease,
            counts_as_open=counts_as_open,
        )

    def start(self, running: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Starts a task and keeps it alive until it ends, which the event loop does not."""
        task = asyncio.get_running_loop().create_task(running)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


class ClientStreams(Occupant):
    """Streams of one client, which together take one place; belongs to the event loop.

    Args:
        factory: Makes the streams.
        call: Record of the RPC.
        context: gRPC's context of the RPC.
        peer: Address of the client's connection.
        name: Name of the stream of the RPC.
        opened: First message of each stream.
    """

    def __init__(
        self,
        factory: StreamFactory,
        call: Call,
        context: StreamContext,
        *,
        peer: str,
        name: str,
        opened: pb.StreamOpened,
    ) -> None:
        self._factory = factory
        self._recorder = factory.recorder.of(call.grant.name)
        self._call = call
        self._context = context
        self._peer = peer
        self._name = name
        self._opened = opened
        self._streams: list[Stream] = []
        self._beside: list[asyncio.Task[None]] = []
        self._cutting_off: Timer | None = None
        self._ageing: Timer | None = None

    async def run(
        self,
        lease_of: Callable[[ServePackets], Lease | None] | None,
        offer_of: Callable[[ServeFrames], Offer | None],
    ) -> None:
        """Serves the RPC until it ends.

        Args:
            lease_of: Returns a lease of shared memory for the client; None if the client cannot share memory.
            offer_of: Returns the offer of a direct connection; None if the server has none.
        """
        factory = self._factory
        max_age_s = factory.limits.max_age_s
        if max_age_s < math.inf:
            age_s = max_age_s * random.uniform(1 - _AGE_JITTER, 1 + _AGE_JITTER)  # noqa: S311 - no secret
            self._ageing = factory.clock.call_at(factory.clock.now() + age_s, self._grow_old)
        lease = None if lease_of is None else lease_of(self._serve_packets)
        stream = self._add(self._context, self._name, self._recorder.traffic.stream, lease, self._call.share)
        offer = offer_of(self._serve_frames)
        opened = pb.StreamOpened(
            shared_memory=None if lease is None else lease.offer, direct=None if offer is None else offer.message
        )
        opened.MergeFrom(self._opened)
        try:
            await stream.run(_opening(opened))
            if stream.is_draining and self._beside:  # the streams beside it drain too, and the engine ends them
                await asyncio.wait(self._beside)
        finally:
            if lease is not None:
                lease.close()
            if offer is not None:
                offer.close()

    def close(self) -> None:
        """Cancels the timers after the RPC has ended."""
        for timer in (self._cutting_off, self._ageing):
            if timer is not None:
                timer.cancel()

    @property
    @override
    def idle_since_s(self) -> float | None:
        latest_s: float | None = None
        for stream in self._streams:
            since_s = stream.idle_since_s
            if since_s is None:
                return None
            latest_s = since_s if latest_s is None else max(latest_s, since_s)
        return latest_s

    @property
    @override
    def client(self) -> Hashable:
        return self._call.share.client

    @override
    def peer(self) -> str:
        return self._peer

    @override
    def give_way(self) -> None:
        self._drain(ServerBusy("the stream was idle and gave its place to another one; open another"))
        self._cutting_off = self._factory.clock.call_at(self._factory.clock.now() + _GIVE_WAY_S, self._cut_off)

    def _grow_old(self) -> None:
        self._drain(StreamTooOld("the stream reached the greatest age that the server allows; open another"))

    def _drain(self, reason: ServerError) -> None:
        for stream in self._streams:
            stream.drain(reason)

    def _cut_off(self) -> None:
        for stream in self._streams:
            stream.cut_off()

    def _add(
        self,
        context: StreamContext,
        name: str,
        transferred: TransferCounter,
        lease: Lease | None,
        share: Share,
        *,
        counts_as_open: bool = True,
    ) -> Stream:
        stream = self._factory.make(
            context,
            share=share,
            recorder=self._recorder,
            name=name,
            transferred=transferred,
            lease=lease,
            counts_as_open=counts_as_open,
        )
        self._streams.append(stream)
        self._call.streams.append(stream)
        return stream

    def _serve_packets(self, lease: Lease, connection: PacketSocket) -> Packets:
        packets = Packets(
            connection, try_handle_inline=lambda message: stream.try_handle_inline(message, packets.write_now)
        )
        counter, share = self._recorder.traffic.packets, self._share_of(connection.connection)
        stream = self._add_beside(packets, "p", counter, lease, share, lease.hang_up)
        return packets

    def _serve_frames(self, wire: Wire) -> Frames:
        factory, limits = self._factory, self._factory.limits
        frames = Frames(
            wire,
            factory.clock,
            most_bytes=limits.max_message_bytes,
            stall_timeout_s=limits.stall_timeout_s,
            try_handle_inline=lambda message: stream.try_handle_inline(message, frames.write_now),
        )
        stream = self._add_beside(frames, "d", self._recorder.traffic.direct, None, self._call.share, frames.close)
        return frames

    def _add_beside(
        self,
        connection: DirectConnection,
        letter: str,
        transferred: TransferCounter,
        lease: Lease | None,
        share: Share,
        hang_up: Callable[[], None],
    ) -> Stream:
        """Serves requests beside the RPC, which has the place of the client."""
        name = f"{self._name}{letter}"
        is_draining = self._streams[0].is_draining
        stream = self._add(connection, name, transferred, lease, share, counts_as_open=False)
        if is_draining:  # nothing would tell a new stream to drain
            asyncio.get_running_loop().call_soon(hang_up)
        else:
            self._beside.append(self._factory.start(self._run_beside(stream, connection, name, share, hang_up)))
        return stream

    def _share_of(self, connection: socket.socket) -> Share:
        """Returns the share for a unix socket. gRPC does not know the user at its other end; the kernel does."""
        client, user = self._call.share.client, user_of_peer(connection)
        if user == os.geteuid() or not is_address(client):
            return self._call.share
        return self._factory.engine.shares.of(("user", user))

    async def _run_beside(
        self, stream: Stream, connection: DirectConnection, name: str, share: Share, hang_up: Callable[[], None]
    ) -> None:
        shares, is_another = self._factory.engine.shares, share is not self._call.share
        if is_another:
            shares.begin(share)
        try:
            await stream.run(_opening(self._opened))
        except Exception as error:  # noqa: BLE001 - as the guard does it for an RPC
            self._recorder.call_failed(STREAM_GRADIENTS, error, request_id=name)
            connection.write_now(go_away(error, request_id=name))
        finally:
            if is_another:
                shares.leave(share)
            hang_up()


def _opening(opened: pb.StreamOpened) -> bytes:
    return pb.StreamGradientsResponse(opened=opened).SerializeToString()
