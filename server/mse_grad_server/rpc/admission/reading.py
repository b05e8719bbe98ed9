"""Bounded reading of the messages of an RPC: a time-out, a largest size, and decompression within that size.

A handler that answers message by message writes through it too, so that a caller who does not read gives way as one
who does not write.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Awaitable, Callable, Hashable
from types import TracebackType
from typing import Any

import grpc
from typing_extensions import override

from mse_grad.reasons import ContractError, Reason
from mse_grad_server.errors import DeadlineExceeded, MessageTooLarge, ServerBusy
from mse_grad_server.process.clock import Clock
from mse_grad_server.rpc.admission.interruption import Interruption
from mse_grad_server.rpc.admission.places import Occupant

__all__ = ["EOF", "Reading", "expanded", "is_compressed"]

EOF = grpc.aio.EOF

# First bytes of gzip. No protobuf message begins with them: they would be field 3 with a wire type that does not exist.
_GZIP = b"\x1f\x8b"
_GZIP_WINDOW_BITS = 31
# A compressed message may always expand to this size.
_LEAST_EXPANDED_BYTES = 64 * 1024
# Messages up to this size expand faster than a thread wakes up.
_QUICK_BYTES = 64 * 1024


class Reading(Occupant):
    """Reader of the messages of one RPC, which gives way while its caller is silent; belongs to the event loop.

    The handler enters it with `with` around all of its work.

    Args:
        context: gRPC's context of the RPC.
        clock: Clock of the time-out.
        silence_s: Longest time for a message to arrive.
        max_expansion: Most times its size that a compressed message may expand to.
        sending_s: How long the last answer may take to send until the RPC counts as idle.
        client: The client whose places are bounded; None if they are not.

    Attributes:
        client: As given.
    """

    client: Hashable = None

    def __init__(
        self,
        context: Any,
        clock: Clock,
        *,
        silence_s: float,
        max_expansion: int,
        sending_s: float = 0.0,
        client: Hashable = None,
    ) -> None:
        self.client = client
        self._idle_since_s: float | None = clock.now()
        self._context = context
        self._clock = clock
        self._silence_s = silence_s
        self._max_expansion = max_expansion
        self._sending_s = sending_s
        self._peer = ""
        self._interruption = Interruption()
        self._end_rpc: Callable[[], None] | None = None

    def __enter__(self) -> Reading:
        self._interruption.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        return self._interruption.__exit__(kind, error, traceback)

    @property
    @override
    def idle_since_s(self) -> float | None:
        since_s = self._idle_since_s
        return since_s if since_s is not None and since_s <= self._clock.now() else None

    @override
    def peer(self) -> str:
        if not self._peer:
            self._peer = self._context.peer()
        return self._peer

    @override
    def give_way(self) -> None:
        if self._end_rpc is not None:  # no status passes an answer that the caller does not read
            self._end_rpc()
        else:
            words = "the call was silent and gave its place to another caller; make it again"
            self._interruption.set(ServerBusy(words))

    def wait(self) -> None:
        """The handler waits for the caller from now on, and reads nothing more."""
        self._idle_since_s = self._clock.now()

    def answered(self, end_rpc: Callable[[], None]) -> None:
        """The handler has ended, and gRPC sends the last answer; `end_rpc` ends the RPC before that is done."""
        self._end_rpc = end_rpc
        self._idle_since_s = self._clock.now() + self._sending_s

    async def message(self, *, most_bytes: int, advice: str) -> Any:
        """Returns the next message, expanded, or EOF.

        Args:
            most_bytes: Largest size.
            advice: End of the error message, which says what the method accepts.

        Raises:
            DeadlineExceeded: The message did not arrive in time.
            MessageTooLarge: The message is larger.
        """
        message = await self._waited(self._context.read(), late="the message did not arrive")
        if message is EOF:
            return EOF
        if is_compressed(message):
            message = await expanded(message, most_bytes=most_bytes, most_times=self._max_expansion)
        if len(message) > most_bytes:
            raise MessageTooLarge(f"the message has {len(message)} bytes; {advice}")
        return message

    async def write(self, message: Any) -> None:
        """Sends a message.

        Raises:
            DeadlineExceeded: The caller did not read in time.
        """
        await self._waited(self._context.write(message), late="the caller did not read the answer")

    async def _waited(self, operation: Awaitable[Any], *, late: str) -> Any:
        """Returns the result of `operation`, which waits for the caller, as long as it may be silent."""
        self._idle_since_s = began_s = self._clock.now()
        timer = self._clock.call_at(began_s + self._silence_s, lambda: self._end_late(late))
        try:
            result = await operation
        finally:
            timer.cancel()
        self._idle_since_s = None
        return result

    def _end_late(self, late: str) -> None:
        self._interruption.set(DeadlineExceeded(f"{late} within {self._silence_s:g} s"))


def is_compressed(message: bytes) -> bool:
    """Whether gzip compressed `message`.

    gRPC's own decompression is disabled because it has no per-method bound.
    """
    return message.startswith(_GZIP)


async def expanded(message: bytes, *, most_bytes: int, most_times: int) -> bytes:
    """Returns the message that gzip compressed to `message`.

    Dense operands shrink by about 10 %, sparse ones by about 90 %. Zeros compress a thousandfold: without a bound, a
    few bytes would fill the memory of the server.

    Args:
        message: Compressed message.
        most_bytes: Largest size of the result.
        most_times: Largest ratio of the result to `message`, if the result is larger than 64 KiB.

    Raises:
        MessageTooLarge: The result would be larger.
        ContractError: MESSAGE_MALFORMED.
    """
    limit_bytes = min(most_bytes, max(_LEAST_EXPANDED_BYTES, most_times * len(message)))
    if len(message) <= _QUICK_BYTES:
        return _expanded(message, limit_bytes)
    return await asyncio.to_thread(_expanded, message, limit_bytes)


def _expanded(message: bytes, limit_bytes: int) -> bytes:
    decompressor = zlib.decompressobj(_GZIP_WINDOW_BITS)
    try:
        result = decompressor.decompress(message, limit_bytes)
    except zlib.error as cause:
        raise ContractError(
            Reason.MESSAGE_MALFORMED, "message", "the message is compressed, but not with gzip"
        ) from cause
    if decompressor.eof:
        return result
    if decompressor.unconsumed_tail or len(result) == limit_bytes:
        raise MessageTooLarge(
            f"the message has {len(message)} bytes and expands to more than {limit_bytes}, the most allowed for it: "
            "send it uncompressed"
        )
    raise ContractError(Reason.MESSAGE_MALFORMED, "message", "the message is compressed and ends too early")
