"""Channel to one address, and the unary RPCs on it."""

from __future__ import annotations

import copy
import threading
import time
from typing import Any

import grpc

from mse_grad.methods import GET_SERVER_INFO, full_name
from mse_grad.reasons import Reason
from mse_grad.v1 import mse_grad_pb2 as pb
from mse_grad_client.errors import ClientClosed, MseGradError, from_rpc_error
from mse_grad_client.interceptor import CallInfo
from mse_grad_client.interrupts import Latch
from mse_grad_client.retry import Replaced
from mse_grad_client.routing.address import grpc_target
from mse_grad_client.routing.credentials import Credentials
from mse_grad_client.routing.info_call import InfoCall
from mse_grad_client.routing.rpc import UnaryCall

__all__ = ["INFO_REQUEST", "Channel", "time_left_s"]

INFO_REQUEST = pb.GetServerInfoRequest().SerializeToString()
"""The message of GetServerInfo."""


class Channel:
    """Opens a gRPC channel when it is first needed, and again if certificates have changed. Thread-safe.

    Args:
        address: "host:port", "[ipv6]:port" or "unix:/path".
        credentials: Certificates and tokens of the client.
        closed: Set when the client is closed; nothing is opened from then on.

    Attributes:
        address: As given.

    Raises:
        ValueError: `address` has none of these forms.
    """

    def __init__(self, address: str, *, credentials: Credentials, closed: Latch) -> None:
        self.address = address
        self._target = grpc_target(address)
        self._credentials = credentials
        self._credentials_state: list[object] = []
        self._closed = closed
        self._lock = threading.Lock()
        self._channel: grpc.Channel | None = None
        self._close_error: MseGradError | None = None

    def call(self, method: str, message: bytes, *, info: CallInfo, deadline: float | None) -> bytes:
        """Returns the answer of a unary RPC, which begins with the metadata of `info`; raises MseGradError."""
        try:
            call, options = self._unary(method, info, deadline)
            return call(message, **options)
        except (grpc.RpcError, ValueError) as error:
            raise self.failure(error) from error

    def begin_call(self, method: str, message: bytes, *, info: CallInfo, deadline: float | None) -> UnaryCall:
        """Starts a unary RPC, as `call`; raises MseGradError. `failure` says what an error of its result means."""
        try:
            call, options = self._unary(method, info, deadline)
            under_way: UnaryCall = call.future(message, **options)
            return under_way
        except ValueError as error:
            raise self.failure(error) from error

    def failure(self, error: grpc.RpcError | ValueError) -> MseGradError:
        """Returns what an error of gRPC's means for a unary RPC here."""
        closed = self._why_closed()
        if closed is not None:
            return closed
        if isinstance(error, ValueError):  # gRPC raises it for a channel that was closed meanwhile
            return Replaced("the connection was closed", reason=Reason.CONNECTION_LOST)
        return from_rpc_error(error, address=self._place)

    def ask_server_info(self, *, timeout_s: float) -> InfoCall:
        """Starts a GetServerInfo RPC that ends within `timeout_s`.

        Raises:
            ClientClosed, Replaced: The client, or the connection alone, was closed.
            TlsFailed, Unauthenticated: A file of the credentials cannot be used.
        """
        with self._lock:
            method: grpc.UnaryUnaryMultiCallable[bytes, pb.GetServerInfoResponse] = self._open_channel().unary_unary(
                full_name(GET_SERVER_INFO), response_deserializer=pb.GetServerInfoResponse.FromString
            )
            call: InfoCall = method.future(
                INFO_REQUEST, timeout=timeout_s, metadata=self._credentials.metadata(self.address)
            )
            return call

    def _unary(
        self, method: str, info: CallInfo, deadline: float | None
    ) -> tuple[grpc.UnaryUnaryMultiCallable[bytes, bytes], dict[str, Any]]:
        with self._lock:
            channel = self._open_channel()
        metadata = (*info.rpc_metadata(), *self._credentials.metadata(self.address))
        return channel.unary_unary(full_name(method)), {"timeout": time_left_s(deadline), "metadata": metadata}

    def _why_closed(self) -> MseGradError | None:
        if self._closed.is_set():
            return ClientClosed("the client was closed; make another one")
        return self._close_error and copy.copy(self._close_error)

    def _open_channel(self) -> grpc.Channel:
        closed = self._why_closed()
        if closed is not None:
            raise closed
        state = self._credentials.state()
        if self._channel is not None and state != self._credentials_state and not self._has_live_stream:
            self._channel.close()  # it keeps the certificate that it was opened with
            self._channel = None
        if self._channel is None:
            self._credentials_state = state
            self._channel = self._credentials.channel(self.address, self._target)
        return self._channel

    @property
    def _place(self) -> str:
        """The address for error texts, with the proxy on the way: it may be the proxy that does not answer."""
        proxy = self._credentials.proxy(self.address)
        return self.address if proxy is None else f"{self.address} through {proxy}"

    @property
    def _has_live_stream(self) -> bool:
        """Whether a stream keeps the channel open."""
        return False


def time_left_s(deadline: float | None) -> float | None:
    """Returns the seconds until `deadline` on the clock of time.monotonic, at least 0; None for no limit."""
    return None if deadline is None else max(0.0, deadline - time.monotonic())
