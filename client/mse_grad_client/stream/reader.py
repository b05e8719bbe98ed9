"""Reads of a stream: by a caller that waits, by an event loop, or by a thread of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import grpc

from mse_grad.reasons import ContractError, Reason
from mse_grad_client.errors import InternalError, MseGradError, Unavailable, from_rpc_error
from mse_grad_client.interrupts import Bell
from mse_grad_client.retry import Replaced
from mse_grad_client.stream.call import Call

__all__ = ["Reader"]


class Reader:
    """Reads the messages of one call; thread-safe.

    The caller that waits for an answer reads the stream itself, which saves a wake-up: a fifth of a small gradient's
    time. The stream's reader thread reads if several callers wait, or if one has a deadline, which a read could not
    keep. An event loop reads the stream of its tasks if the call has a descriptor.

    Args:
        address: Address of the server, for error texts.

    Attributes:
        is_read_by_loop: Whether event loops read the answers, so that the reader thread need not.
    """

    def __init__(self, address: str) -> None:
        self.is_read_by_loop = False
        self._address = address
        self._call: Call | None = None
        self._end_error: MseGradError | None = None
        # Held by the thread that reads answers. It knows its owner, unlike a Lock.
        self._reading: Any = threading.RLock()
        self._reader_wanted = Bell(is_rung=True)  # at once, to read the opening
        self._reader = threading.Thread(target=self._read_when_wanted, name="mse-grad-reader", daemon=True)

    @property
    def has_ended(self) -> bool:
        """Whether no further answers come."""
        return self._end_error is not None

    def wake(self) -> None:
        """As attempt.Readable."""
        call = self._call
        if call is not None:
            call.wake()

    @property
    def is_sending(self) -> bool:
        """As attempt.Readable."""
        call = self._call
        return call is not None and call.is_sending

    @property
    def descriptor(self) -> int | None:
        """As attempt.Readable."""
        call = self._call
        return None if call is None else call.descriptor

    def read_in_thread(self) -> None:
        """As attempt.Readable."""
        self._reader_wanted.ring()

    def read(self, is_enough: Callable[[], bool]) -> bool:
        """Reads answers in this thread until `is_enough()`; returns False if another thread reads now."""
        try:
            if not self._reading.acquire(blocking=False):
                return False
            self._read_until(is_enough)
            return True
        finally:
            # Ask the lock: an interrupt may come before a variable could record that it was acquired.
            if self._reading._is_owned():
                self._reading.release()

    def _read_when_wanted(self) -> None:
        while self._end_error is None:
            self._reader_wanted.wait()
            with self._reading:
                self._read_until(self._is_idle)

    def _read_until(self, is_enough: Callable[[], bool]) -> None:
        """Reads and dispatches answers until `is_enough()` or the stream has ended; `_reading` is held."""
        error: MseGradError
        try:
            call = self._call
            while call is not None and not is_enough():
                self._dispatch(next(call))
                call = self._call
            return
        except StopIteration as ended:
            ended.with_traceback(None)  # as below
            error = Unavailable(f"{self._address} ended the stream", reason=Reason.CONNECTION_LOST)
        except grpc.RpcError as ended:
            # gRPC raises the call itself; with its traceback it would be a cycle, which `close` could not free.
            error = from_rpc_error(ended.with_traceback(None), address=self._address)
        except ContractError as broken:
            error = InternalError(f"{self._address} broke the contract: {broken}")
        except BaseException:
            self._end(Replaced("the thread that read answers was interrupted", reason=Reason.CONNECTION_LOST))
            raise
        self._end(error)

    def _is_idle(self) -> bool:
        """Whether there is nothing to read: the stream is open, stays open, and no caller waits for an answer."""
        raise NotImplementedError

    def _dispatch(self, message: bytes) -> None:
        """Handles one message."""
        raise NotImplementedError

    def _end(self, error: MseGradError) -> None:
        """Handles the end of the call; a second call does nothing more."""
        raise NotImplementedError
