"""Offers of direct connections to streams: who may open one, and which stream it belongs to."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Callable
from typing import TypeAlias

from mse_grad.v1 import mse_grad_pb2 as pb
from mse_grad_server.direct.frames import Frames
from mse_grad_server.direct.wire import Wire
from mse_grad_server.errors import DirectDenied

__all__ = ["Offer", "Offers", "ServeFrames"]

ServeFrames: TypeAlias = Callable[[Wire], Frames]
"""Serves requests over a connection until it ends, and returns its frames at once."""

_SECRET_BYTES = 32


class Offer:
    """Offer of one direct connection to the client of one stream; belongs to the event loop.

    Args:
        message: Offer that the client gets in the first message of the stream.
        serve: Serves the connection.
        on_close: Called once, when the offer is withdrawn.

    Attributes:
        message: Offer that the client gets in the first message of the stream.
    """

    def __init__(self, message: pb.DirectOffer, *, serve: ServeFrames, on_close: Callable[[], object]) -> None:
        self.message = message
        self._serve: ServeFrames | None = serve
        self._on_close: Callable[[], object] | None = on_close
        self._frames: Frames | None = None

    def accept(self, wire: Wire) -> None:
        """Begins to serve the one connection that has shown the secret."""
        serve, self._serve = self._serve, None
        assert serve is not None
        self._frames = serve(wire)

    def close(self) -> None:
        """Withdraws the offer and closes the connection, because the stream has ended; a second call does nothing."""
        # The callback holds the stream, which holds this offer: the cycle would keep the whole RPC in memory.
        self._serve = None
        on_close, self._on_close = self._on_close, None
        if on_close is not None:
            on_close()
        frames, self._frames = self._frames, None
        if frames is not None:
            frames.close()


class Offers:
    """Offers of all open streams; belongs to the event loop.

    Args:
        instance_id: Id of this run of the server.
        most_bytes: Largest message on a direct connection.
    """

    def __init__(self, *, instance_id: str, most_bytes: int) -> None:
        self._instance_id = instance_id
        self._most_bytes = most_bytes
        self._offers: dict[bytes, Offer] = {}

    def make(self, host: str, port: int, serve: ServeFrames) -> Offer:
        """Returns an offer with a new secret; it stands until it is taken or closed.

        Args:
            host: Host of the connection; "" for the one by which the client reached the server.
            port: Port of the connection.
            serve: Serves the connection.
        """
        secret = secrets.token_bytes(_SECRET_BYTES)
        message = pb.DirectOffer(host=host, port=port, secret=secret, max_message_bytes=self._most_bytes)
        digest = _digest(secret)
        offer = Offer(message, serve=serve, on_close=lambda: self._offers.pop(digest, None))
        self._offers[digest] = offer
        return offer

    def take(self, greeting: pb.DirectGreeting) -> Offer:
        """Returns the offer whose secret the greeting shows, once; raises DirectDenied."""
        # A look-up by digest tells a stranger nothing about the secrets that it comes close to.
        digest = _digest(greeting.secret)
        offer = self._offers.get(digest)
        if (
            offer is None
            or not hmac.compare_digest(offer.message.secret, greeting.secret)
            or greeting.instance_id != self._instance_id
        ):
            raise DirectDenied("the greeting does not show instance_id and secret of an open stream of this server")
        del self._offers[digest]
        return offer


def _digest(secret: bytes) -> bytes:
    return hashlib.sha256(secret).digest()
