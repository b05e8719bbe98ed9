"""A bidirectional RPC as a stream of bytes each way."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol

import grpc
from typing_extensions import override

from mse_grad_client.interrupts import Bell

__all__ = ["Call", "EndedCall", "Metadata", "ThreadedCall"]


Metadata = tuple[tuple[str, str], ...]


class Call(Protocol):
    """An RPC that pulls the messages it sends. Any thread may wake or cancel it; one thread at a time may read."""

    @property
    def is_sending(self) -> bool:
        """Whether a message is being sent and its completion will be seen only by a read."""

    @property
    def descriptor(self) -> int | None:
        """A descriptor that is readable when a read does not block; None if only a thread can wait."""

    def wake(self) -> None:
        """Has messages pulled and sent until there are none left."""

    def finish(self) -> None:
        """Closes this side once the remaining messages are sent; reading goes on."""

    def cancel(self) -> None:
        """Ends the RPC from this side; a read under way raises."""

    def __next__(self) -> bytes:
        """Blocks until the server's next message.

        Raises:
            StopIteration: The server has ended the RPC with OK.
            grpc.RpcError: The RPC ended otherwise, from either side.
        """


class ThreadedCall(Call):
    """An RPC on gRPC's public surface, whose own thread pulls the messages.

    Args:
        pull: Returns the next message to send, or None if there is none now.
    """

    def __init__(self, pull: Callable[[], bytes | None]) -> None:
        self._pull = pull
        self._waking = Bell()
        self._is_over = False
        self._call: Any = None

    @classmethod
    def open(
        cls, channel: grpc.Channel, method: str, pull: Callable[[], bytes | None], metadata: Metadata = ()
    ) -> ThreadedCall:
        """Starts the RPC; see cygrpc_call.open_call."""
        call = cls(pull)
        callable: grpc.StreamStreamMultiCallable[bytes, bytes] = channel.stream_stream(method)
        call._call = callable(call._messages(), metadata=metadata)
        return call

    @property
    @override
    def is_sending(self) -> bool:
        return False  # a thread of gRPC's sends without a read

    @property
    @override
    def descriptor(self) -> int | None:
        return None

    @override
    def wake(self) -> None:
        self._waking.ring()

    @override
    def finish(self) -> None:
        self._is_over = True
        self._waking.ring()

    @override
    def cancel(self) -> None:
        self._call.cancel()  # before this side closes, which the server might take for a normal end
        self._is_over = True
        self._waking.ring()

    @override
    def __next__(self) -> bytes:
        message: bytes = next(self._call)
        return message

    def _messages(self) -> Iterator[bytes]:
        while True:
            self._waking.wait()
            while (message := self._pull()) is not None:
                yield message
            if self._is_over:
                return


class EndedCall(grpc.RpcError):
    """The end of a call, with the methods of gRPC's own errors."""

    def __init__(self, code: grpc.StatusCode, details: str, trailing_metadata: Any = None) -> None:
        super().__init__(f"{code.name}: {details}")
        self._code = code
        self._details = details
        self._trailing_metadata = trailing_metadata

    def code(self) -> grpc.StatusCode:
        """Returns the status code."""
        return self._code

    def details(self) -> str:
        """Returns the server's text, or gRPC's own."""
        return self._details

    def trailing_metadata(self) -> Any:
        """Returns the trailing metadata, or None."""
        return self._trailing_metadata
