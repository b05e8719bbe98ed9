"""One bidirectional RPC as a stream of bytes each way, with as few threads between caller and socket as gRPC allows."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import grpc

from mse_grad.reasons import code_of

try:
    from grpc._cython import cygrpc  # type: ignore[attr-defined,import-untyped,unused-ignore]
except ImportError:
    cygrpc = None

__all__ = ["Call", "DirectCall", "EndedCall", "Metadata", "ThreadedCall", "open_call"]


Metadata = tuple[tuple[str, str], ...]


class Call(Protocol):
    """An RPC that pulls the messages it sends. Any thread may wake or cancel it; one at a time may read."""

    @property
    def is_sending(self) -> bool:
        """Whether a message is on its way to gRPC, and only a read will see it arrive there."""

    def wake(self) -> None:
        """Has messages pulled and sent until there is none."""

    def cancel(self) -> None:
        """Ends the RPC from this side; a read under way raises."""

    def __next__(self) -> bytes:
        """Blocks until the server's next message.

        Raises:
            StopIteration: The server has ended the RPC with OK.
            grpc.RpcError: It ended otherwise, from either side.
        """


def open_call(channel: grpc.Channel, method: str, pull: Callable[[], bytes | None], metadata: Metadata = ()) -> Call:
    """Starts the RPC.

    Args:
        channel: Open.
        method: Full name, "/package.Service/Method".
        pull: Returns the next message to send, or None where there is none now; called by one thread at a time.
        metadata: What the RPC begins with.
    """
    if cygrpc is not None:
        try:
            return DirectCall(channel, method, pull, metadata)
        except (AttributeError, TypeError):  # not the gRPC that we know: its public surface does the same, slower
            pass
    return ThreadedCall(channel, method, pull, metadata)


class DirectCall:
    """Sends in the thread that wakes it and receives in the thread that reads.

    Through the public surface every message is handed over three times: to a thread that sends it, from a thread that
    polls, and to both again when it was sent; that is half of a small gradient's round trip. This is the call below
    it, on which gRPC builds its own blocking unary calls: operations are started by any thread, and who reads polls for
    their ends.
    """

    def __init__(
        self, channel: grpc.Channel, method: str, pull: Callable[[], bytes | None], metadata: Metadata = ()
    ) -> None:
        self._pull = pull
        self._lock = threading.Lock()
        self._is_sending = False
        self._is_receiving = False
        self._error: grpc.RpcError | StopIteration | None = None
        opening = (
            cygrpc.SendInitialMetadataOperation(metadata, _NO_FLAGS),
            cygrpc.ReceiveStatusOnClientOperation(_NO_FLAGS),
        )
        self._call: Any = channel._channel.segregated_call(  # type: ignore[attr-defined]
            _NO_FLAGS,
            method.encode(),
            None,
            None,
            metadata,
            None,
            ((opening, _ENDED), ((cygrpc.ReceiveInitialMetadataOperation(_NO_FLAGS),), _OPENED)),
            None,
            None,
        )
        self._due = 2  # operations started whose ends were not seen: gRPC keeps the call until all were

    @property
    def is_sending(self) -> bool:
        """See Call."""
        return self._is_sending

    def wake(self) -> None:
        """See Call."""
        with self._lock:
            if not self._is_sending:
                self._send()

    def cancel(self) -> None:
        """See Call."""
        self._call.cancel(grpc.StatusCode.CANCELLED.value[0], "cancelled from this side")

    def __next__(self) -> bytes:
        """See Call."""
        call, lock = self._call, self._lock
        if not self._is_receiving:
            with lock:
                self._is_receiving = self._operate(cygrpc.ReceiveMessageOperation(_NO_FLAGS), _RECEIVED)
        while self._due:
            event = call.next_event()
            message: bytes | None = None
            with lock:
                self._due -= 1
                if event.tag is _SENT:
                    self._is_sending = False
                    if event.success:
                        self._send()
                elif event.tag is _RECEIVED:
                    self._is_receiving = False
                    message = event.batch_operations[0].message()
                elif event.tag is _ENDED:
                    self._error = _error_of(event.batch_operations[1])
            if message is not None:
                return message
        assert self._error is not None, "the end of an RPC is the last that is due"
        raise self._error

    def _send(self) -> None:
        message = self._pull()
        if message is not None:
            self._is_sending = self._operate(cygrpc.SendMessageOperation(message, _NO_FLAGS), _SENT)

    def _operate(self, operation: Any, tag: object) -> bool:
        is_started: bool = self._call.operate((operation,), tag)
        self._due += is_started
        return is_started


class ThreadedCall:
    """The same through gRPC's public surface, whose own thread pulls."""

    def __init__(
        self, channel: grpc.Channel, method: str, pull: Callable[[], bytes | None], metadata: Metadata = ()
    ) -> None:
        self._pull = pull
        self._waking = threading.Semaphore(0)
        self._is_over = False
        callable: grpc.StreamStreamMultiCallable[bytes, bytes] = channel.stream_stream(method)
        self._call: Any = callable(self._messages(), metadata=metadata)

    @property
    def is_sending(self) -> bool:
        """See Call: a thread of gRPC's sees to it."""
        return False

    def wake(self) -> None:
        """See Call."""
        self._waking.release()

    def cancel(self) -> None:
        """See Call."""
        self._is_over = True
        self._waking.release()
        self._call.cancel()

    def __next__(self) -> bytes:
        """See Call."""
        message: bytes = next(self._call)
        return message

    def _messages(self) -> Iterator[bytes]:
        while True:
            self._waking.acquire()
            while (message := self._pull()) is not None:
                yield message
            if self._is_over:
                return


class EndedCall(grpc.RpcError):
    """How a call ended, as gRPC's own errors tell it."""

    def __init__(self, code: grpc.StatusCode, details: str, trailing_metadata: Any = None) -> None:
        super().__init__(f"{code.name}: {details}")
        self._code = code
        self._details = details
        self._trailing_metadata = trailing_metadata

    def code(self) -> grpc.StatusCode:
        """Returns the code."""
        return self._code

    def details(self) -> str:
        """Returns what was said about it."""
        return self._details

    def trailing_metadata(self) -> Any:
        """Returns the trailing metadata, or None."""
        return self._trailing_metadata


def _error_of(status: Any) -> grpc.RpcError | StopIteration:
    code = code_of(status.code())
    details = status.details()
    text = details.decode(errors="replace") if isinstance(details, bytes) else details or ""
    return StopIteration() if code is grpc.StatusCode.OK else EndedCall(code, text, status.trailing_metadata())


_NO_FLAGS = 0
_SENT, _RECEIVED, _ENDED, _OPENED = "sent", "received", "ended", "opened"
