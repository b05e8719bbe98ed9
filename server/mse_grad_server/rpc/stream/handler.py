"""Handler of StreamGradients: a place for each client, its streams, and shared memory for clients of this host."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Any

from mse_grad.v1 import mse_grad_pb2 as pb
from mse_grad_server.direct.offers import Offer, ServeFrames
from mse_grad_server.engine.engine import Engine
from mse_grad_server.metrics.recorder import Recorder
from mse_grad_server.process.clock import Clock
from mse_grad_server.rpc.admission.call import CURRENT_CALL
from mse_grad_server.rpc.admission.places import Places
from mse_grad_server.rpc.stream.client_streams import ClientStreams, StreamFactory
from mse_grad_server.rpc.stream.limits import StreamLimits
from mse_grad_server.settings.address import is_on_this_host
from mse_grad_server.shared_memory.lease import Lease, ServePackets

__all__ = ["StreamGradients"]


class StreamGradients:
    """Handler of the method StreamGradients; belongs to the event loop.

    Args:
        engine: Admits and computes requests.
        recorder: Counts and logs requests.
        clock: Clock.
        limits: Limits of streams.
        client_limits: Limits that the first message of a stream announces.
        instance_id: Id of this run of the server.
        lease_of: Returns a lease of shared memory for a new stream, or None if the stream gets no
            shared memory.
        offer_of: Returns the offer of a direct connection for a new stream, or None if there are none.

    Attributes:
        places: Places of the clients with open streams.
    """

    def __init__(
        self,
        engine: Engine,
        recorder: Recorder,
        clock: Clock,
        limits: StreamLimits,
        *,
        client_limits: pb.Limits,
        instance_id: str,
        lease_of: Callable[[ServePackets], Lease | None],
        offer_of: Callable[[ServeFrames], Offer | None],
    ) -> None:
        self.places = Places(limits.max_streams, clock, noun="streams")
        self._engine = engine
        self._factory = StreamFactory(engine, recorder, clock, limits)
        self._opened = pb.StreamOpened(instance_id=instance_id, limits=client_limits)
        self._name = instance_id[:8]
        self._numbers = count(1)
        self._lease_of = lease_of
        self._offer_of = offer_of

    async def handle(self, _: Any, context: Any) -> None:
        """Serves one RPC."""
        name = f"{self._name}-s{next(self._numbers)}"
        self._engine.require_open()
        peer = context.peer()
        call = CURRENT_CALL.get()
        streams = ClientStreams(self._factory, call, context, peer=peer, name=name, opened=self._opened)
        self.places.take(streams)
        call.at_end.append(lambda: self._leave(streams))
        # A client on another host could not reach the socket.
        await streams.run(self._lease_of if is_on_this_host(peer) else None, self._offer_of)

    def _leave(self, streams: ClientStreams) -> None:
        self.places.leave(streams)
        streams.close()
