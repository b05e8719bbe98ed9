"""Channel in memory, in the place of gRPC's: what the SDK uses of one, with a fake server at its other end."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from queue import SimpleQueue
from typing import Any, NamedTuple, Protocol

import grpc

from mse_grad.methods import STREAM_GRADIENTS
from mse_grad_client.stream.call import EndedCall, Metadata

__all__ = ["FakeCall", "FakeChannel", "Service", "Trailer"]


class Trailer(NamedTuple):
    """One entry of trailing metadata."""

    key: str
    value: str | bytes


class FakeCall:
    """A stream under way, from both sides. Thread-safe."""

    def __init__(self) -> None:
        self._messages: SimpleQueue[bytes | grpc.RpcError | None] = SimpleQueue()
        self.has_ended = False

    def send(self, message: bytes) -> None:
        """Sends a message to the client."""
        if not self.has_ended:
            self._messages.put(message)

    def end(self, error: grpc.RpcError | None = None) -> None:
        """Ends the stream, with OK or `error`; nothing is sent any longer."""
        self.has_ended = True
        self._messages.put(error)

    def cancel(self) -> None:
        """Ends the stream from the client's side."""
        self.end(EndedCall(grpc.StatusCode.CANCELLED, "cancelled from this side"))

    def __iter__(self) -> FakeCall:
        return self

    def __next__(self) -> bytes:
        message = self._messages.get()
        if isinstance(message, bytes):
            return message
        self._messages.put(message)  # for every later read
        raise StopIteration if message is None else message


class Service(Protocol):
    """The server at the other end of a channel."""

    def unary(self, method: str, message: bytes, metadata: Metadata, timeout_s: float | None) -> bytes:
        """Returns the answer of a unary RPC; raises EndedCall."""

    def open(self, call: FakeCall, metadata: Metadata) -> None:
        """Begins a stream."""

    def receive(self, call: FakeCall, message: bytes) -> None:
        """Handles one message of a stream; calls for one stream come one after another."""

    def client_done(self, call: FakeCall) -> None:
        """The client has closed its side of a stream."""


class _EndedUnary:
    """A unary RPC that has ended; see routing.info_call and routing.rpc."""

    def __init__(self, ask: Callable[[], Any]) -> None:
        self._error: EndedCall | None = None
        self._answer = None
        try:
            self._answer = ask()
        except EndedCall as error:
            self._error = error

    def cancel(self) -> bool:
        """Does nothing: the RPC has ended."""
        return False

    def add_done_callback(self, fn: Callable[[Any], None]) -> None:
        """Calls `fn` at once."""
        fn(self)

    def done(self) -> bool:
        """Returns True: the RPC has ended."""
        return True

    def code(self) -> grpc.StatusCode:
        """Returns the status code."""
        return grpc.StatusCode.OK if self._error is None else self._error.code()

    def details(self) -> str:
        """Returns the text of an error."""
        return "" if self._error is None else self._error.details()

    def trailing_metadata(self) -> Any:
        """Returns the metadata after an answer."""
        return None if self._error is None else self._error.trailing_metadata()

    def result(self) -> Any:
        """Returns the answer, or raises the error that the RPC ended with."""
        if self._error is not None:
            raise self._error
        return self._answer


class _Unary:
    """A unary method of the channel."""

    def __init__(self, service: Service, method: str, read: Callable[[bytes], Any] | None) -> None:
        self._service = service
        self._method = method
        self._read = read or (lambda message: message)

    def __call__(self, message: bytes, timeout: float | None = None, metadata: Metadata = ()) -> Any:
        return self._read(self._service.unary(self._method, message, metadata, timeout))

    def future(self, message: bytes, timeout: float | None = None, metadata: Metadata = ()) -> _EndedUnary:
        """Returns the RPC, which has ended."""
        return _EndedUnary(lambda: self(message, timeout, metadata))


class FakeChannel(grpc.Channel):
    """A channel to a fake server. A thread for each stream brings the client's messages to the server.

    Args:
        service: The server.
    """

    def __init__(self, service: Service) -> None:
        self._service = service
        self._calls: list[FakeCall] = []

    def unary_unary(
        self, method: str, request_serializer: Any = None, response_deserializer: Any = None, *_: Any, **__: Any
    ) -> Any:
        """Returns a unary method."""
        return _Unary(self._service, method.rpartition("/")[2], response_deserializer)

    def stream_stream(self, method: str, *_: Any, **__: Any) -> Any:
        """Returns the method that begins a stream."""
        if not method.endswith(f"/{STREAM_GRADIENTS}"):
            raise NotImplementedError(f"{method}: a fake server has one kind of stream, {STREAM_GRADIENTS}")
        return self._stream

    def unary_stream(self, method: str, *_: Any, **__: Any) -> Any:
        """Raises NotImplementedError: the service has no such method."""
        raise NotImplementedError(method)

    def stream_unary(self, method: str, *_: Any, **__: Any) -> Any:
        """Raises NotImplementedError: the service has no such method."""
        raise NotImplementedError(method)

    def subscribe(self, callback: Callable[[grpc.ChannelConnectivity], None], try_to_connect: bool = False) -> None:
        """Tells `callback` that the channel is ready, which it always is."""
        callback(grpc.ChannelConnectivity.READY)

    def unsubscribe(self, callback: Callable[[grpc.ChannelConnectivity], None]) -> None:
        """Does nothing: the state does not change."""

    def close(self) -> None:
        """Ends every stream."""
        for call in self._calls:
            call.cancel()

    def __enter__(self) -> FakeChannel:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _stream(self, messages: Iterable[bytes], metadata: Sequence[tuple[str, str]] = ()) -> FakeCall:
        call = FakeCall()
        self._calls = [other for other in self._calls if not other.has_ended] + [call]
        threading.Thread(
            target=self._bring, args=(call, messages, tuple(metadata)), name="mse-grad-fake-server", daemon=True
        ).start()
        return call

    def _bring(self, call: FakeCall, messages: Iterable[bytes], metadata: Metadata) -> None:
        self._service.open(call, metadata)
        for message in messages:
            if not call.has_ended:
                self._service.receive(call, message)
        self._service.client_done(call)
