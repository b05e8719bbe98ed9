"""A bidirectional RPC on gRPC's own layer below its public surface, with fewer threads between caller and socket."""

from __future__ import annotations

import gc
import logging
import threading
from collections.abc import Callable
from functools import cache
from typing import Any

import grpc
from typing_extensions import override

from mse_grad.reasons import code_of
from mse_grad_client.stream.call import Call, EndedCall, Metadata, ThreadedCall

try:
    from grpc._cython import cygrpc  # type: ignore[attr-defined,import-untyped,unused-ignore]
except ImportError:
    cygrpc = None

__all__ = ["CygrpcCall", "open_call", "release_locks"]

# Minor versions of grpcio whose lower layer passed tests/client/stream. Another one might order its events otherwise,
# and a call that misses an event hangs: it gets the public surface, which does the same and is slower.
_TESTED_VERSIONS = ("1.76", "1.78", "1.80", "1.81", "1.82", "1.83", "1.84", "1.85")

_NO_FLAGS = 0
_SENT, _RECEIVED, _ENDED, _OPENED, _CLOSED = "sent", "received", "ended", "opened", "closed"
_log = logging.getLogger("mse_grad_client")


def open_call(channel: grpc.Channel, method: str, pull: Callable[[], bytes | None], metadata: Metadata = ()) -> Call:
    """Starts the RPC, as a `CygrpcCall` if this version of grpcio is known.

    Args:
        channel: An open channel.
        method: Full name, "/package.Service/Method".
        pull: Returns the next message to send, or None if there is none now; called by one thread at a time.
        metadata: Metadata that the RPC begins with.
    """
    if _is_tested(grpc.__version__):
        try:
            return CygrpcCall.open(channel, method, pull, metadata)
        except (AttributeError, TypeError):  # another object in the place of gRPC's channel, or a patched gRPC
            pass
    return ThreadedCall.open(channel, method, pull, metadata)


def release_locks(channel: grpc.Channel) -> None:
    """Releases the locks of `channel` that this thread holds; the channel may only be closed afterwards.

    gRPC acquires its lock of a channel in Python code. If a signal handler raises there, this thread keeps the lock and
    no other thread can release it: calls of other threads, and the end of the channel, would hang.
    """
    for state in gc.get_referents(getattr(channel, "_channel", None)):
        for condition in gc.get_referents(state):
            if isinstance(condition, threading.Condition):
                held: Any = condition
                while held._is_owned():
                    held.release()


class CygrpcCall(Call):
    """Sends in the thread that wakes it, and receives in the thread that reads.

    The public surface hands each message over three times: to a thread that sends it, from a thread that polls, and to
    both again once it was sent. Without that a gradient over TCP takes 16 to 21 % less time at 1K float32 elements, and
    11 to 34 % less at 64K: six interleaved runs against ThreadedCall, 10th percentile. gRPC builds its own blocking
    unary calls on the same layer: any thread may start operations, and the thread that reads polls for their ends.

    Args:
        pull: Returns the next message to send, or None if there is none now.
    """

    def __init__(self, pull: Callable[[], bytes | None]) -> None:
        self._pull = pull
        self._lock = threading.Lock()
        self._is_sending = False
        self._is_receiving = False
        self._is_finishing = False
        self._error: grpc.RpcError | StopIteration | None = None
        self._call: Any = None
        # Operations started whose ends were not seen yet: gRPC keeps the call until all were.
        self._pending_operations = 0

    @classmethod
    def open(
        cls, channel: grpc.Channel, method: str, pull: Callable[[], bytes | None], metadata: Metadata = ()
    ) -> CygrpcCall:
        """Starts the RPC, as `open_call`; raises AttributeError or TypeError if gRPC has another shape."""
        call = cls(pull)
        opening = (
            cygrpc.SendInitialMetadataOperation(metadata, _NO_FLAGS),
            cygrpc.ReceiveStatusOnClientOperation(_NO_FLAGS),
        )
        call._call = channel._channel.segregated_call(  # type: ignore[attr-defined]
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
        call._pending_operations = 2
        return call

    @property
    @override
    def is_sending(self) -> bool:
        return self._is_sending

    @property
    @override
    def descriptor(self) -> int | None:
        return None

    @override
    def wake(self) -> None:
        with self._lock:
            if not self._is_sending:
                self._send()

    @override
    def finish(self) -> None:
        self._is_finishing = True
        self.wake()

    @override
    def cancel(self) -> None:
        self._call.cancel(grpc.StatusCode.CANCELLED.value[0], "cancelled from this side")

    @override
    def __next__(self) -> bytes:
        call, lock = self._call, self._lock
        if not self._is_receiving:
            with lock:
                self._is_receiving = self._operate(cygrpc.ReceiveMessageOperation(_NO_FLAGS), _RECEIVED)
        while self._pending_operations:
            try:
                event = call.next_event()
            except BaseException:  # raised by a signal handler; gRPC has destroyed the queue of events
                self._pending_operations = 0
                raise
            message: bytes | None = None
            with lock:
                self._pending_operations -= 1
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
        raise self._error or EndedCall(grpc.StatusCode.CANCELLED, "the thread that waited was interrupted")

    def _send(self) -> None:
        message = self._pull()
        if message is not None:
            self._is_sending = self._operate(cygrpc.SendMessageOperation(message, _NO_FLAGS), _SENT)
        elif self._is_finishing:
            self._is_finishing = False
            self._operate(cygrpc.SendCloseFromClientOperation(_NO_FLAGS), _CLOSED)

    def _operate(self, operation: Any, tag: object) -> bool:
        try:
            is_started: bool = self._call.operate((operation,), tag)
        except ValueError:  # a thread started one before, and was interrupted before it could record that
            self.cancel()
            return False
        self._pending_operations += is_started
        return is_started


@cache
def _is_tested(version: str) -> bool:
    """Whether CygrpcCall knows this version of grpcio; logs once if it does not."""
    if cygrpc is not None and ".".join(version.split(".")[:2]) in _TESTED_VERSIONS:
        return True
    tested = ", ".join(_TESTED_VERSIONS)
    _log.info("grpcio %s is not one of the tested versions (%s), so streams use its slower public API", version, tested)
    return False


def _error_of(status: Any) -> grpc.RpcError | StopIteration:
    code = code_of(status.code())
    details = status.details()
    text = details.decode(errors="replace") if isinstance(details, bytes) else details or ""
    return StopIteration() if code is grpc.StatusCode.OK else EndedCall(code, text, status.trailing_metadata())
